"""ZOO-Prune: tokens the projector is sensitive to, and unlike each other."""

from typing import Any

import torch
from torch import Tensor

from rcp.choosing.greedy import NOBODY, After, cosines, greedy, rows_at
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class ZooPrunePruner(Pruner):
    """Sensitivity times novelty (a note on ZOO-Prune, CVPR 2026).

    A token's sensitivity is how far the projector M moves along ``directions`` random ones u,
    the same for all tokens: mean ||M(x + h u) - M(x - h u)|| / 2h, scaled to [0, 1] over the
    sample. First the most sensitive token, then the largest sensitivity * (1 - max cosine to what
    is kept), of projected tokens. Costs 2 x ``directions`` calls of the projector.

    Ours: 32 directions of the 16 to 160 published; h = 0.1 of the published insensitive 1e-4 to 1,
    because a small h is lost in bf16; sensitivities are rounded to 1e-4 of the largest, far below
    what so few directions tell, so that equal tokens stay equal.
    """

    name = "zoo_prune"
    paper = "arXiv 2509.24837"
    needs = frozenset({"encoder_tokens", "projector", "projected"})
    draws = True

    def __init__(
        self, hidden_size: int, *, directions: int = 32, step: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(hidden_size)
        check_range("directions", directions, 1, 2**16)
        check_range("step", step, 1e-6)
        check_range("seed", seed, 0, 2**32 - 1)
        self.directions = directions
        self.step = step
        self.seed = seed

    def select(self, view: View, counts: Tensor) -> Tensor:
        score = self._sensitivity(view)
        after = _novel(score, rows_at(cosines(view.given("projected"))), view.alive)
        return greedy(score, after, view.alive, counts, view.limit(counts))

    @torch.no_grad()
    def _sensitivity(self, view: View) -> Tensor:
        """(B, N) fp64 in [0, 1], 0 for dead tokens."""
        tokens = view.given("encoder_tokens")
        assert view.projector is not None, "the runner supplies what `needs` names"
        draw: Any = torch.Generator().manual_seed(self.seed)
        total = torch.zeros(tokens.shape[:2], device=tokens.device)
        for _ in range(self.directions):
            move = self.step * torch.randn(tokens.shape[-1], generator=draw).to(tokens)
            change = view.projector(tokens + move) - view.projector(tokens - move)
            total += change.float().norm(dim=-1)
        score = torch.where(view.alive, total, 0).double()
        score = (score / score.amax(1, keepdim=True).clamp(min=1e-30) * 1e4).round() / 1e4
        lowest = torch.where(view.alive, score, 1).amin(1, keepdim=True)
        return ((score - lowest) / (1 - lowest).clamp(min=1e-4)).clamp(min=0)


def _novel(score: Tensor, likeness_to: After, alive: Tensor) -> After:
    """Worth of a token: its score times 1 - its largest cosine to a picked one."""
    nearest = torch.full_like(score, -torch.inf)
    blocked = torch.where(alive, 0.0, NOBODY).to(score)

    def after(pick: Tensor) -> Tensor:
        torch.maximum(nearest, likeness_to(pick), out=nearest)
        blocked.scatter_(1, pick[:, None], NOBODY)
        return score * (1 - nearest) + blocked

    return after
