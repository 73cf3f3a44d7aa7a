"""Top-k by the attention that a patch gets from all patches of its image."""

from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class DependencyVitPruner(Pruner):
    """Keeps the tokens that most of the tower's attention flows to.

    In DependencyViT (arXiv 2304.03282 [note]) patches send themselves to their parents, and those
    that are sent least are dropped, stage by stage, by a tower trained from scratch. Of a frozen
    tower's attention this is the share that a patch gets, summed over the patches of its image,
    mean over heads, in the layer that is projected. [ours]
    """

    name = "dependencyvit"
    paper = "DependencyViT, arXiv 2304.03282"
    needs = frozenset({"encoder_attention"})
    reads_question = False

    def forward(self, view: View) -> Tensor:
        return view.given("encoder_attention").float().sum(-1)
