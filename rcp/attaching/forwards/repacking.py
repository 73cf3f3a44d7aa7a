"""Position policy "repack": what goes before the decoder leaves no gap in positions. [ours]"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rcp.backbones import Backbone
from rcp.backbones.base import Rope

BEYOND = torch.iinfo(torch.long).max
"""Above every position."""


def closed(positions: Tensor, present: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """``positions`` without the values that only dropped tokens had.

    ``positions`` (A, B, T) long, the axes of M-RoPE or just one; ``present`` (B, T) the valid
    tokens and ``left`` (B, T) those still there. All axes share one number line, on which text
    goes on after an image's largest coordinate: a value is closed up if no token left has it on
    any axis, so that rows and columns of an image keep their order and stay told apart. With one
    axis the tokens left are numbered one by one. Returns the new positions and by how much what
    follows has moved, (B, 1), zero or less. Nothing is read from the device.
    """
    flat = positions.transpose(0, 1).flatten(1)
    axes = len(positions)
    end = torch.full_like(flat[:, :1], BEYOND)
    wanted = torch.cat([flat, end], dim=1)
    gone = _distinct_below(flat, present.repeat(1, axes), wanted)
    gone = gone - _distinct_below(flat, left.repeat(1, axes), wanted)
    moved = (flat - gone[:, :-1]).unflatten(1, (axes, -1)).transpose(0, 1)
    return moved, -gone[:, -1:]


def _distinct_below(values: Tensor, member: Tensor, limits: Tensor) -> Tensor:
    """How many different ``values`` (B, V) of ``member`` (B, V) lie below ``limits`` (B, W)."""
    line = torch.where(member, values, BEYOND).sort(dim=1).values
    new = line != BEYOND
    new[:, 1:] &= line[:, 1:] != line[:, :-1]
    count = torch.cat([torch.zeros_like(line[:, :1]), new.cumsum(1)], dim=1)
    return count.gather(1, torch.searchsorted(line, limits))


class Repacking:
    """The positions of one forward. ``shift`` (B, 1) is how far earlier forwards on the same cache
    have moved what follows them, None for not at all."""

    def __init__(self, backbone: Backbone, shift: Tensor | None) -> None:
        self.backbone = backbone
        self.shift = shift
        self._positions: Tensor | None = None
        self._make_rope: Callable[[], Rope] | None = None
        self._rope: Rope | None = None

    def enter(self, arguments: dict[str, Any], start: int) -> dict[str, Any]:
        """The decoder's ``arguments`` with the positions that follow on the gaps closed so far.

        ``start`` is the original column of the first token.
        """
        positions = arguments.get("position_ids")
        if positions is None:
            embeds = arguments["inputs_embeds"]
            positions = torch.arange(start, start + embeds.shape[1], device=embeds.device)[None]
        if self.shift is not None:
            positions = positions + self.shift.to(positions.device)
        self._positions = positions
        return arguments | {"position_ids": positions}

    def close(self, hidden: Tensor, present: Tensor, left: Tensor) -> None:
        """Number the tokens ``left`` (B, T) of those ``present`` (B, T) anew."""
        assert self._positions is not None
        positions = self._positions.to(present.device)
        axes = positions[-3:] if positions.dim() == 3 else positions[None]
        axes, moved = closed(axes.expand(-1, *present.shape), present, left)
        self.shift = moved if self.shift is None else self.shift.to(moved.device) + moved
        axes = axes.to(hidden.device)
        if positions.dim() == 3:
            self._positions = torch.cat([positions[:-3].to(axes), axes])
        else:
            self._positions = axes[0]
        turned = axes if positions.dim() == 3 else axes[0]
        # when it is asked for: some decoders have no single one, and need none to be given
        self._make_rope = partial(self.backbone.rope, hidden, turned)

    @property
    def positions(self) -> Tensor:
        """Those of all columns, (B, T) or (axes, B, T), gaps closed where they have been."""
        assert self._positions is not None
        return self._positions

    def rope(self, handed: Rope) -> Rope:
        """(cos, sin) of all rows, given what the model ``handed`` to a layer."""
        if self._rope is None and self._make_rope is not None:
            self._rope = self._make_rope()
        return handed if self._rope is None else self._rope
