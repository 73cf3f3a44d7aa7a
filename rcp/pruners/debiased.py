"""Attention debiasing: the pull of late positions divided out of any attention score."""

from typing import Any

from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.reweighted import ReweightingPruner


class DebiasedPruner(ReweightingPruner):
    """Another method whose attention is divided by an exponential trend (Debiasing's code).

    Attention to the i-th of L visual tokens is divided by f(i/L) = mu·exp(``growth``·i/L), which
    `python -m rcp debiasing` fits to the attention of a model on a data set. mu changes no
    ranking and is left out. 1.0 is close to the weights published for FastV, which fall to 0.36
    at the last token, though along a cubic. Zeroing the patches of image padding, the paper's
    second part, is not here: processors do not tell where they pad. [ours]
    """

    name = "debiased"
    paper = "arXiv 2508.17807"

    def __init__(
        self,
        hidden_size: int,
        *,
        growth: float = 1.0,
        method: str = "question_attention",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(hidden_size, method=method, arguments=arguments)
        self.growth = growth

    def factor(self, view: View) -> Tensor:
        share = view.rank / view.total[:, None].clamp(min=1)
        return (-self.growth * share).exp()
