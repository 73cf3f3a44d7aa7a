"""Budgets by sample: how many tokens stay is learned, beside which of them."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from rcp.choosing.calibrated import Cut, bounds, gaps
from rcp.choosing.view import View
from rcp.errors import UserError

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""At these of a stage's count a :class:`CountHead` looks how steeply scores fall."""

STEEP = 20.0
"""Gaps beyond this tell a head nothing more."""


@dataclass
class CountOptions:
    """The head that says how many tokens of a sample stay.

    Args:
        inner: Its inner width.
        fewest: Least count of a sample, as a multiple of what its stage's ratio would keep.
        most: Largest count of a sample, likewise.
        levels: For each stage, what is taken from the logarithm of a multiple, so that the mean
            count is that of the ratio (`rcp calibrate` finds it); null for nothing.
    """

    inner: int = 32
    fewest: float = 0.25
    most: float = 4.0
    levels: list[float] | None = None

    def check(self, stages: int) -> None:
        """Raise ``UserError`` for what cannot be, of a plug-in of so many ``stages``."""
        if self.inner < 1:
            raise UserError(f"count.inner is {self.inner}, but it is a width: give 1 or more.")
        if not 0 < self.fewest <= 1 <= self.most < inf:
            raise UserError(
                f"count.fewest is {self.fewest} and count.most {self.most}: both are multiples of "
                f"the mean count, the first above 0 and at most 1, the second at least 1."
            )
        if self.levels is not None and (
            len(self.levels) != stages or not all(-inf < level < inf for level in self.levels)
        ):
            raise UserError(
                f"count.levels is {self.levels}: there must be one number for each of the "
                f"{stages} stages. `rcp calibrate` finds them."
            )


class CountHead(nn.Module):
    """The logarithm of the multiple of its stage's count that a sample keeps. [ours]

    From the question, mean over its rows, and from how far below the best the scores lie that
    would just be kept at :data:`MULTIPLES` of the count. A fresh one says 0: the count itself.
    Nothing of what it learns reaches the scores.
    """

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.question = nn.Linear(hidden_size, inner)
        self.fall = nn.Linear(len(MULTIPLES), inner)
        self.out = nn.Linear(inner, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, view: View, scores: Tensor, counts: Tensor) -> Tensor:
        """``scores`` (B, N) of the tokens of ``view``, ``counts`` (B,) long → (B,) fp32."""
        rising = gaps(scores.detach(), view.alive).clamp(max=STEEP).sort(dim=1).values
        multiples = torch.tensor(MULTIPLES, device=counts.device)
        at = (counts[:, None] * multiples).round().long() - 1
        last = (view.alive.sum(1, keepdim=True) - 1).to(at)
        falls = rising.gather(1, torch.minimum(at, last).clamp(min=0).to(rising.device))
        asked = view.question_valid[..., None]
        question = torch.where(asked, view.question, 0).sum(1) / asked.sum(1).clamp(min=1)
        weight = self.fall.weight
        inner = self.question(question.to(weight)) + self.fall(falls.to(weight))
        return self.out(nn.functional.gelu(inner)).float()[:, 0]


@dataclass(frozen=True)
class Counting:
    """What decides at one stage: its ``head``, and the ``level`` taken from what that says."""

    head: CountHead
    level: float
    fewest: float
    most: float

    def multiples(self, view: View, scores: Tensor, counts: Tensor) -> Tensor:
        """Logarithms of the multiples of ``counts`` (B,) that samples would keep, (B,) fp32."""
        return self.head(view, scores, counts) - self.level

    def counts(self, multiples: Tensor, counts: Tensor) -> Tensor:
        """Of ``counts`` (B,) long these multiples, in whole tokens and within bounds, (B,) long:
        who would keep something keeps something."""
        wanted = (counts * multiples.exp()).round().long()
        return wanted.clamp(*bounds(counts, Cut(0.0, self.fewest, self.most)))
