"""Linear modules whose weights are kept in few bits, as quantised bases keep them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Stored(nn.Module):
    """A linear module that multiplies by ``scale`` (outputs, 1) times what ``name`` holds.

    ``name``: the tensor that is kept in ``dtype``, a parameter as in FP8 bases, or a buffer, as
    those of GPTQ and AWQ, whose modules have no parameter at all.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
        scale = linear.weight.detach().float().abs().amax(1, keepdim=True) / largest
        kept = linear.weight.detach().float() / scale
        kept = (kept.round() if dtype == torch.int8 else kept).to(dtype)
        self.register_buffer("scale", scale)
        if packed:
            self.register_buffer("qweight", kept)
        else:
            self.weight = nn.Parameter(kept, requires_grad=False)
        self.bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        kept: Any = self.qweight if "qweight" in self._buffers else self.weight
        return nn.functional.linear(rows, (kept.float() * self.scale).to(rows), self.bias)


STORED = {
    "fp8": (torch.float8_e4m3fn, False),
    "fp8_e5m2": (torch.float8_e5m2, False),
    "int8": (torch.int8, False),
    "packed": (torch.int8, True),
}


def stored(model: nn.Module, kind: str) -> Any:
    """A copy of ``model`` with all linear modules but its head kept as ``kind`` of ``STORED``."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if type(module) is nn.Linear and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(twin.get_submodule(parent), child, Stored(module, *STORED[kind]))
    return twin
