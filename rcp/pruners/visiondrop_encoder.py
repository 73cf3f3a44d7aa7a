"""VisionDrop's part in the encoder: dominant tokens, and contextual ones that take in the rest."""

from torch import Tensor

from rcp.choosing.greedy import cosines
from rcp.choosing.merging import Contextual, nearest_mean, unmerged
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class VisionDropEncoderPruner(Pruner):
    """Dominant tokens by [CLS] attention, contextual targets for the others (VisionDrop's code).

    Of the tokens that are not dominant, every n-th is a target; each of the others joins the
    target whose key is most like its own, and a target becomes itself plus the mean of what
    joined. ``contextual`` is the targets' share of what is kept (published: 6 of 48 down to 3 of
    19). [CLS] itself, which the code also keeps, is not among a decoder's tokens.
    """

    name = "visiondrop_encoder"
    paper = "arXiv 2506.22283"
    needs = frozenset({"vision_cls_attention", "encoder_keys"})
    reads_question = False

    def __init__(self, hidden_size: int, *, contextual: float = 0.125) -> None:
        super().__init__(hidden_size)
        check_range("contextual", contextual, 0, 1)
        self.contextual = contextual

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self._split(view, counts).kept

    def merge(self, view: View, keep: Tensor) -> Tensor:
        counts = keep.sum(1)
        split = self._split(view, counts)
        likeness = cosines(view.given("encoder_keys"))
        weights = unmerged(keep, view.limit(counts))
        return nearest_mean(weights, split.targets, view.alive & ~keep, likeness)

    def _split(self, view: View, counts: Tensor) -> Contextual:
        attention = view.given("vision_cls_attention")
        return Contextual.of(attention, view.alive, counts, self.contextual)
