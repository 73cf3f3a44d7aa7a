"""ZOO-Prune: tokens the projector is sensitive to, and unlike each other."""

from functools import reduce

import torch
from torch import Tensor

from rcp.choosing.greedy import cosines, greedy, lowest
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range

ROWS = 2**16
"""So many rows does the projector get at once, or those of one direction."""


class ZooPrunePruner(Pruner):
    """Sensitivity times novelty (a note on ZOO-Prune, CVPR 2026).

    A token's sensitivity is how far the projector M moves along ``directions`` random ones u,
    the same for all tokens: mean ||M(x + h u) - M(x - h u)|| / 2h, scaled to [0, 1] over the
    sample. First the most sensitive token, then the largest sensitivity * (1 - max cosine to what
    is kept), of projected tokens. Costs 2 x ``directions`` times the projector's work.

    Ours: 32 directions of the 16 to 160 published; h = 0.1 of the published insensitive 1e-4 to 1,
    because a small h is lost in bf16; sensitivities are rounded to 1e-4 of the largest, far below
    what so few directions tell, so that equal tokens stay equal.
    """

    name = "zoo_prune"
    paper = "arXiv 2509.24837"
    needs = frozenset({"encoder_tokens", "projector", "projected"})
    draws = True
    reads_question = False

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
        novelty = cosines(view.given("projected")).neg_().add_(1)
        after = lowest(novelty.mul_(score[:, None]), view.alive)
        return greedy(score, after, view.alive, counts, view.limit(counts))

    @torch.no_grad()
    def _sensitivity(self, view: View) -> Tensor:
        """(B, N) fp64 in [0, 1] where alive."""
        tokens, alive = view.given("encoder_tokens"), view.alive
        draw = torch.Generator().manual_seed(self.seed)
        moves = self.step * torch.randn(self.directions, tokens.shape[-1], generator=draw)
        at_once = max(1, ROWS // max(1, 2 * alive.numel()))
        parts = [self._moved(view, some) for some in moves.to(tokens).split(at_once)]
        total = reduce(torch.add, parts) * alive
        score = (total / total.amax(1, keepdim=True).clamp(min=1e-30)).round_(decimals=4)
        least = score.masked_fill(~alive, 1).amin(1, keepdim=True)
        return (score - least) / (1 - least).clamp(min=1e-4)

    def _moved(self, view: View, moves: Tensor) -> Tensor:
        """How far the projector goes along all ``moves`` (M, C) together: (B, N) fp64."""
        tokens = view.given("encoder_tokens")
        assert view.projector is not None, "the runner supplies what `needs` names"
        both_ways = torch.cat([moves, -moves])[:, None, None]
        there, back = view.projector((tokens + both_ways).flatten(0, 1)).chunk(2)
        lengths = (there - back).float().norm(dim=-1)
        return lengths.unflatten(0, (len(moves), -1)).sum(0, dtype=torch.float64)
