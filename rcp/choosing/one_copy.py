"""Between host and device in one go: each copy makes a GPU wait, whatever its size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def read(tensors: Sequence[Tensor]) -> list[Array]:
    """``tensors``, all of one shape and dtype, on the host; waits for their device once."""
    return list(torch.stack(list(tensors)).cpu().numpy())


def sent(arrays: Mapping[str, Array], device: torch.device) -> dict[str, Tensor]:
    """``arrays`` as tensors on ``device``, all views of one buffer."""
    widest_first = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # so each is aligned
    parts = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in widest_first]
    buffer = torch.from_numpy(np.concatenate(parts)).to(device)
    found: dict[str, Tensor] = {}
    for name, part in zip(widest_first, buffer.split([len(part) for part in parts])):
        array = arrays[name]
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        found[name] = part.view(dtype).view(array.shape)
    return found
