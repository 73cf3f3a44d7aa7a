"""Top-k by the attention of the vision tower's [CLS] token."""

from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class ClsAttentionPruner(Pruner):
    """Keeps the tokens that [CLS] attends to most in the vision tower.

    The plain compression of the text-dominance study (arXiv 2508.10552 [note]), FasterVLM's
    ranking; how much text then dominates, its indices measure:
    :mod:`rcp.evaluation.metrics.dominance`. Where the model joins patches, a token has their mean.
    [ours]
    """

    name = "cls_attention"
    paper = "text dominance, arXiv 2508.10552"
    needs = frozenset({"vision_cls_attention"})
    reads_question = False

    def forward(self, view: View) -> Tensor:
        return view.given("vision_cls_attention")
