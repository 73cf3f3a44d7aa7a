"""Where a module computes and in which precision, wherever and however its weights are kept."""

from itertools import chain
from typing import Any

import torch
from torch import nn

COMPUTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What activations may be; quantised weights are kept as integers or floats of 8 bits."""


def device_of(module: Any) -> torch.device:
    """Where ``module`` computes; its weights may wait elsewhere (``device_map``)."""
    placed = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if placed is None:  # packed weights are no parameters
        return next(chain(module.parameters(), module.buffers())).device
    return torch.device("cuda", placed) if isinstance(placed, int) else torch.device(placed)


def dtype_of(*modules: nn.Module) -> torch.dtype | None:
    """The precision of the first parameter that activations could have; None if there is none."""
    dtypes = (parameter.dtype for module in modules for parameter in module.parameters())
    return next((dtype for dtype in dtypes if dtype in COMPUTED), None)
