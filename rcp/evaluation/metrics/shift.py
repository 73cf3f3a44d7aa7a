"""How far pruning moves the rows that predict answers, and which move goes with lost answers."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, PearsonCorrCoef

from rcp.objectives.losses import EPSILON


class DistributionShift(Metric):
    """Gaps between the first two moments of full and pruned states, for each of ``layers``.

    ``width`` D. The gaps are those of :func:`rcp.objectives.losses.repair_loss`, in units of the
    full model's spread: ``mean_gap`` (μ_s-μ_t)²/(v_t+ε), ``variance_gap`` the squared gap of log
    variances, ``w2`` the squared 2-Wasserstein distance of diagonal Gaussians over v_t+ε; each
    a mean over dimensions. Sums are fp64: E[h²]-μ² cancels.
    """

    count: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, layers: Sequence[int], width: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
        shape = (2, len(self.layers), width)
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("sums", "squares"):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, full: dict[int, Tensor], pruned: dict[int, Tensor]) -> None:
        """Count the rows (R, D) of every layer; both sides hold the same rows."""
        states = torch.stack(
            [torch.stack([side[layer] for layer in self.layers]) for side in (full, pruned)]
        ).double()
        self.count += states.shape[2]
        self.sums += states.sum(2)
        self.squares += states.square().sum(2)

    def compute(self) -> dict[str, Tensor]:
        """Each gap, (L,)."""
        mean = self.sums / self.count.clamp(min=1)
        variance = (self.squares / self.count.clamp(min=1) - mean.square()).clamp(min=0) + EPSILON
        spread = variance[0]
        mean_gap = (mean[1] - mean[0]).square() / spread
        deviation_gap = (variance[1].sqrt() - variance[0].sqrt()).square() / spread
        return {
            "mean_gap": mean_gap.mean(1),
            "variance_gap": (variance[1].log() - variance[0].log()).square().mean(1),
            "w2": (mean_gap + deviation_gap).mean(1),
        }


class GapWithLoss(PearsonCorrCoef):
    """Correlation over samples of how far a layer's rows moved with answers lost, for L layers.

    Pearson's, from fp64 sums; 0 where either side never varies.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(num_outputs=layers)
        self.set_dtype(torch.float64)

    def update(self, distance: Tensor, lost: Tensor) -> None:
        """``distance`` (B, L); ``lost`` (B,): 1 right only in full, -1 only pruned, else 0."""
        answers = lost.double()[:, None].expand_as(distance)
        super().update(distance.double(), answers.contiguous())

    def compute(self) -> Tensor:
        """(L,)"""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a side that never varies: that is no fault
            return super().compute().nan_to_num(0.0)


class SinkSurvival(Metric):
    """Attention sinks among the survivors of each of ``stages`` stages."""

    counts: Tensor

    def __init__(self, stages: int) -> None:
        super().__init__()
        # survivors, sinks, both
        self.add_state("counts", torch.zeros(3, stages), dist_reduce_fx="sum")

    def update(self, stage: int, kept: Tensor, sink: Tensor) -> None:
        """``kept`` and ``sink`` (B, N) bool."""
        self.counts[:, stage] += torch.stack([kept.sum(), sink.sum(), (kept & sink).sum()])

    def compute(self) -> dict[str, Tensor]:
        """Shares (S,): of survivors that are sinks, and of sinks that survive."""
        survivors, sinks, both = self.counts
        return {
            "survivors_that_are_sinks": both / survivors.clamp(min=1),
            "sinks_that_survive": both / sinks.clamp(min=1),
        }
