"""Budgets by sample: a cut on scores that was calibrated on other samples."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from rcp.choosing.selection import LOWEST, top_k
from rcp.errors import UserError


@dataclass(frozen=True)
class Cut:
    """``gap``: how far below the best score of its row a kept token may lie; ``fewest`` and
    ``most``: bounds of a row's count, as multiples of what its stage's ratio would keep."""

    gap: float
    fewest: float
    most: float


@dataclass
class Calibration:
    """What decides how many tokens of a sample stay; see :func:`by_sample`.

    Args:
        gaps: For each stage, how far below the sample's best score a kept token may lie.
        fewest: Least count of a sample, as a multiple of what its stage's ratio would keep.
        most: Largest count of a sample, likewise.
    """

    gaps: list[float]
    fewest: float = 0.25
    most: float = 4.0

    def at(self, stage: int) -> Cut:
        """What decides at the ``stage`` of that number."""
        return Cut(self.gaps[stage], self.fewest, self.most)

    def check(self, stages: int) -> None:
        """Raise ``UserError`` for what cannot be, of a plug-in of so many ``stages``."""
        if len(self.gaps) != stages or not all(0 <= gap < inf for gap in self.gaps):
            raise UserError(
                f"calibration.gaps is {self.gaps}: there must be one number of at least 0 for each "
                f"of the {stages} stages. `rcp calibrate` finds them."
            )
        if not 0 < self.fewest <= 1 <= self.most < inf:
            raise UserError(
                f"calibration.fewest is {self.fewest} and calibration.most {self.most}: both are "
                f"multiples of the mean count, the first above 0 and at most 1, the second at "
                f"least 1."
            )


def gaps(scores: Tensor, alive: Tensor) -> Tensor:
    """How far each token's score lies below the best of its row, (B, N) fp32; inf where dead.

    ``scores`` (B, N) float, ``alive`` (B, N) bool. NaN scores lie below all others.
    """
    scores = torch.nan_to_num(scores.float(), nan=LOWEST, neginf=LOWEST)
    best = scores.masked_fill(~alive, LOWEST).amax(1, keepdim=True)
    return (best - scores).masked_fill(~alive, torch.inf)


def bounds(counts: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """The least and the largest count of rows that a ratio would let keep ``counts`` (B,) long.

    (B,) long each. Who would keep something keeps something.
    """
    return (counts * cut.fewest).ceil().long(), (counts * cut.most).floor().long()


def by_sample(scores: Tensor, alive: Tensor, counts: Tensor, cut: Cut) -> Tensor:
    """Keep the tokens that score at most ``cut.gap`` below the best of their row: (B, N) bool.

    But no fewer and no more than :func:`bounds` of ``counts`` (B,) says, the best ones. What other
    rows score changes nothing. [ours]

    A distance, since a guide that teaches an order leaves the level of scores open. What it is
    worth, benchmarks/results/calibrated.md tells.
    """
    near = (gaps(scores, alive) <= cut.gap).sum(1)
    return top_k(scores, alive, near.clamp(*bounds(counts, cut)))
