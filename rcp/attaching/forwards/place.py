"""The rows at one layer's input, as a stage finds them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcp.backbones.base import Rope
from rcp.choosing.positions import Positions


@dataclass(frozen=True)
class Place:
    """The rows at one layer's input.

    ``hidden`` (B, R, D); ``make_rope`` gives (cos, sin), each (B, R, d), to whom needs them;
    ``mask`` the 4-D mask over these rows or None for plain causal; ``columns`` (B, R) their
    original columns; ``alive`` (B, R) bool: neither padding nor dropped, None where all are;
    ``visual`` and ``question``: where the visual slots and the question's tokens are among these
    rows; ``locate_text`` tells it of all text of the prompt. ``norm`` is the layer's own.
    """

    layer: int
    hidden: Tensor
    make_rope: Callable[[], Rope]
    mask: Tensor | None
    columns: Tensor
    alive: Tensor | None
    visual: Positions
    question: Positions
    locate_text: Callable[[], Positions]
    norm: Callable[[Tensor], Tensor]

    @cached_property
    def normed(self) -> Tensor:
        """The layer's normed input, (B, R, D)."""
        return self.norm(self.hidden)

    @cached_property
    def rope(self) -> Rope:
        """(cos, sin) of the rows, each (B, R, d)."""
        cos, sin = self.make_rope()
        return cos.to(self.hidden.device), sin.to(self.hidden.device)

    def to(self, device: torch.device) -> "Place":
        """All of it on the device of the layer."""
        return Place(
            layer=self.layer,
            hidden=self.hidden.to(device),
            make_rope=self.make_rope,
            mask=None if self.mask is None else self.mask.to(device),
            columns=self.columns.to(device),
            alive=None if self.alive is None else self.alive.to(device),
            visual=self.visual.to(device),
            question=self.question.to(device),
            locate_text=self.locate_text,
            norm=self.norm,
        )
