"""ToDRE, first stage: tokens that are least like each other taken together."""

from torch import Tensor

from rcp.choosing.greedy import added, cosines, greedy
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.pruners.random import draw
from rcp.typed_values import check_range

LAST = 1e6
"""Likeness above any sum of cosines."""


class ToDREPruner(Pruner):
    """Max-sum diversification of the encoder's tokens (ToDRE's paper, stage 1).

    Starts at the token with the highest [CLS] attention, a random one where the tower has no
    [CLS]; then adds the token with the smallest sum of cosines to all kept ones. Published at 10 %
    of the tokens before the decoder. Stage 2, which drops all visual tokens of a sample late in
    the decoder, is a method of its own.

    Ours: newline rows, which no encoder token stands behind, come last.
    """

    name = "todre"
    paper = "arXiv 2505.18757"
    needs = frozenset({"encoder_tokens"})
    uses = frozenset({"vision_cls_attention"})
    draws = True
    reads_question = False

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__(hidden_size)
        check_range("seed", seed, 0, 2**32 - 1)
        self.seed = seed

    def select(self, view: View, counts: Tensor) -> Tensor:
        tokens = view.given("encoder_tokens")
        first = view.vision_cls_attention
        if first is None:
            first = draw(view.rank, self.seed, view.layer)
        nothing = ~tokens.any(-1)
        first = first.double() - nothing.double()
        unlike = cosines(tokens).neg_()
        after = added(unlike, -LAST * nothing.double(), view.alive)
        return greedy(first, after, view.alive, counts, view.limit(counts))
