"""The rows at one layer's input, as a stage finds them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """The rows at one layer's input.

    ``hidden`` (B, R, D); ``rope`` (cos, sin), each (B, R, d); ``mask`` the 4-D mask over these
    rows or None for plain causal; ``columns`` (B, R) their original columns; ``alive`` (B, R)
    bool: neither padding nor dropped; ``visual`` (B, N) and ``question`` (B, Q): positions of the
    visual slots and question tokens among these rows.
    """

    layer: int
    hidden: Tensor
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    columns: Tensor
    alive: Tensor
    visual: Tensor
    question: Tensor

    def to(self, device: torch.device) -> "Place":
        """All of it on the device of the layer."""
        mask = None if self.mask is None else self.mask.to(device)
        return Place(
            layer=self.layer,
            hidden=self.hidden.to(device),
            rope=(self.rope[0].to(device), self.rope[1].to(device)),
            mask=mask,
            columns=self.columns.to(device),
            alive=self.alive.to(device),
            visual=self.visual.to(device),
            question=self.question.to(device),
        )
