"""TransPrune: tokens that the layers move far, and that the text looks at."""

from torch import Tensor

from rcp.choosing.schedule import Published
from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class TransPrunePruner(Pruner):
    """Token transitions since the first stage, plus the text's attention (TransPrune's code).

    Both are divided by their sum over the tokens alive. Transitions add up over attention and
    feed-forward blocks from the layer before the first stage on, as in the paper, whose layers 7
    to 12 (counted from 1) lead to stages after 7, 9 and 12: our layers 7, 9 and 12. Attention is
    that of the stage's own layer, "the next" of the paper, with rotary, mean over heads and the
    text behind the image. The paper's own accumulators take batches of one; these any.
    """

    name = "transprune"
    paper = "arXiv 2507.20630"
    needs = frozenset({"transitions", "question_attention"})
    published = (Published("LLaVA-1.5-7B, high", 32, (7, 9, 12), (0.875, 0.625, 0.125)),)

    def forward(self, view: View) -> Tensor:
        moved, attended = view.given("transitions"), view.given("question_attention")
        return _share(moved, view.alive) + _share(attended, view.alive)


def _share(values: Tensor, alive: Tensor) -> Tensor:
    values = values * alive
    return values / values.sum(1, keepdim=True).clamp(min=1e-12)
