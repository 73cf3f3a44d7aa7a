"""The decoder's input as a place where a stage can stand, before any layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rcp.backbones import Backbone
from rcp.backbones.base import Rope


def with_positions(arguments: dict[str, Any], start: int = 0) -> dict[str, Any]:
    """The decoder's ``arguments`` with ``position_ids`` (B or 1, T), or (axes, B, T).

    Where there are none, a decoder counts them by its cache, which holds ``start`` columns.
    """
    if arguments.get("position_ids") is not None:
        return arguments
    embeds: Tensor = arguments["inputs_embeds"]
    columns = torch.arange(start, start + embeds.shape[1], device=embeds.device)
    return arguments | {"position_ids": columns[None]}


def entry_rope(backbone: Backbone, arguments: dict[str, Any]) -> Callable[[], Rope]:
    """What makes the rotary embeddings of the decoder's input, given its ``arguments``."""
    hidden, positions = arguments["inputs_embeds"], arguments["position_ids"]
    axes = positions[-3:] if positions.dim() == 3 else positions
    return lambda: backbone.rope(hidden, axes)
