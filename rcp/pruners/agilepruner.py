"""AgilePruner: attention on simple images, diversity on complex ones."""

import torch
from torch import Tensor

from rcp.choosing.greedy import NOBODY, After, cosines, greedy, products, rows_at
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class AgilePruner(Pruner):
    """Best attention first, near-duplicates out (a note on AgilePruner, ICLR 2026).

    Walks down by [CLS] attention; the n-th kept token kills those with 1 - cosine below
    0.01 n erank(X) / ``average_erank``. The effective rank exp(entropy of the normalised singular
    values) is high for complex images, so that these lose more to diversity.

    Ours: killed tokens come back, by attention, where too few are left; X and the cosines are the
    encoder's tokens; the average over training images is not published, so the default is the
    middle of the two values that are (78 for text-like images, 106 for POPE). Calibrate it for
    another tower with :func:`effective_rank`.
    """

    name = "agilepruner"
    paper = "arXiv 2603.01236"
    needs = frozenset({"vision_cls_attention", "encoder_tokens"})
    reads_question = False

    def __init__(self, hidden_size: int, *, average_erank: float = 92.0) -> None:
        super().__init__(hidden_size)
        check_range("average_erank", average_erank, 1e-9)
        self.average_erank = average_erank

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive, most = view.alive, view.limit(counts)
        tokens = view.given("encoder_tokens").double() * alive[..., None]
        attention = view.given("vision_cls_attention").masked_fill(~alive, -torch.inf)
        order = attention.argsort(dim=1, descending=True, stable=True)
        first = -order.argsort(dim=1).double()  # a token's worth is its place in the walk
        step = 0.01 * effective_rank(tokens) / self.average_erank
        radii = torch.arange(1, most + 1, device=step.device)[:, None, None] * step[:, None]
        after = _near_ones_last(first, cosines(tokens).neg_().add_(1), radii, alive)
        return greedy(first, after, alive, counts, most)


def _near_ones_last(first: Tensor, distance: Tensor, radii: Tensor, alive: Tensor) -> After:
    """Worth of a token: ``first`` (B, N), or behind all others once it was near a picked one.

    ``distance`` (B, N, N); near the n-th pick is what is nearer than ``radii[n]`` (B, 1).
    """
    last = first - first.shape[1]
    worth = first.masked_fill(~alive, NOBODY)
    row, radius = rows_at(distance), iter(radii)

    def after(pick: Tensor) -> Tensor:
        near = row(pick) < next(radius)
        torch.where(near, torch.minimum(worth, last), worth, out=worth)
        return worth.scatter_(1, pick[:, None], NOBODY)

    return after


def effective_rank(tokens: Tensor) -> Tensor:
    """exp(-sum q log q), q the singular values of ``tokens`` (B, N, C) over their sum: (B,) fp64.

    Zero rows do not count. Rounded to 1e-6, so that it does not depend on how many there are.
    """
    tokens = tokens.double()
    gram = products(tokens.mT if tokens.shape[1] > tokens.shape[2] else tokens)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum(1, keepdim=True).clamp(min=1e-30)
    entropy = -torch.xlogy(share, share).sum(1)
    return entropy.exp().round(decimals=6)
