"""CATP, first stage: of each image what covers it and what its text speaks of."""

from torch import Tensor

from rcp.choosing.greedy import NOBODY, After, cosines, greedy, normalised
from rcp.choosing.groups import consecutive, quotas
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.pruners.mmtok import coverage
from rcp.typed_values import check_range


class CATPPruner(Pruner):
    """Greedy coverage of each image, and likeness to its text (CATP's paper, AAAI 2026, stage 1).

    Each pick adds most to the sum over the image's tokens of the best similarity to a kept one,
    plus ``text_weight`` times its similarity to the mean embedding of the image's text, which
    stands between the image and the next one; similarity is (cosine + 1) / 2 of projected tokens.
    Images share the count in proportion to their tokens. With half of the pruning done here, the
    other half is that of `catp_decoder`.

    Ours: what the shares leave over goes to the largest remainders; an image without text has a
    similarity of 1/2 to it.
    """

    name = "catp"
    paper = "arXiv 2508.07871"
    needs = frozenset({"projected", "text_embeds", "text_image"})

    def __init__(self, hidden_size: int, *, text_weight: float = 0.7) -> None:
        super().__init__(hidden_size)
        check_range("text_weight", text_weight, 0)
        self.text_weight = text_weight

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive, tokens = view.alive, view.given("projected")
        image = consecutive(view.image_index, alive)
        together = (image[:, :, None] == image[:, None]) & alive[:, :, None] & alive[:, None]
        cover = cosines(tokens).add_(1).div_(2).mul_(together)
        told = (normalised(tokens) * normalised(mean_of_own_text(view))).sum(-1)
        told = self.text_weight * (told.round(decimals=9) + 1) / 2
        left = quotas(counts, image, alive)
        first, after = coverage(cover, alive.double(), alive)
        first = (first + told).masked_fill(left < 1, NOBODY)
        return greedy(first, _within(after, told, left, image), alive, counts, view.limit(counts))


def mean_of_own_text(view: View) -> Tensor:
    """Mean embedding of the text that belongs to each token's image, 0 without one: (B, N, D)."""
    own = view.image_index[:, :, None] == view.given("text_image")[:, None]
    own = own & view.alive[:, :, None]
    words = own.double() @ view.given("text_embeds").double()
    return words / own.sum(2, keepdim=True).clamp(min=1)


def _within(after: After, told: Tensor, left: Tensor, image: Tensor) -> After:
    """``after`` plus ``told`` (B, N) fp64, for images that may keep more: ``left`` (B, N) says how
    many the image of each token, ``image`` (B, N), may keep."""
    left = left.clone()

    def within(pick: Tensor) -> Tensor:
        left.sub_((image == image.gather(1, pick[:, None])).long())
        return (after(pick) + told).masked_fill(left < 1, NOBODY)

    return within
