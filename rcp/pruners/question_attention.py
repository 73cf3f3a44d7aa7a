"""Control: top-k by the layer's own attention from the question to each visual token."""

from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class QuestionAttentionPruner(Pruner):
    """RCP's starting point and its strongest control: no parameters, the model's own opinion."""

    name = "question_attention"
    paper = "RCP's intrinsic baseline, arXiv 2604.04972"
    needs = frozenset({"question_attention"})

    def forward(self, view: View) -> Tensor:
        return view.given("question_attention").float().clamp(min=1e-12).log()
