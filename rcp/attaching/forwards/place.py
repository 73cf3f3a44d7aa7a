"""The rows at one layer's input, as a stage finds them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcp.choosing.positions import Positions


@dataclass(frozen=True)
class Place:
    """The rows at one layer's input.

    ``hidden`` (B, R, D); ``rope`` (cos, sin), each (B, R, d); ``mask`` the 4-D mask over these
    rows or None for plain causal; ``columns`` (B, R) their original columns; ``alive`` (B, R)
    bool: neither padding nor dropped, None where all are; ``visual`` and ``question``: where the
    visual slots and the question's tokens are among these rows. ``norm`` is the layer's own.
    """

    layer: int
    hidden: Tensor
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    columns: Tensor
    alive: Tensor | None
    visual: Positions
    question: Positions
    norm: Callable[[Tensor], Tensor]

    @cached_property
    def normed(self) -> Tensor:
        """The layer's normed input, (B, R, D)."""
        return self.norm(self.hidden)

    def to(self, device: torch.device) -> "Place":
        """All of it on the device of the layer."""
        return Place(
            layer=self.layer,
            hidden=self.hidden.to(device),
            rope=(self.rope[0].to(device), self.rope[1].to(device)),
            mask=None if self.mask is None else self.mask.to(device),
            columns=self.columns.to(device),
            alive=None if self.alive is None else self.alive.to(device),
            visual=self.visual.to(device),
            question=self.question.to(device),
            norm=self.norm,
        )
