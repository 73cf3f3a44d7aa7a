"""AdaptInfer: the text that matters to the text says which tokens matter."""

from torch import Tensor

from rcp.choosing.schedule import Published
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner


class AdaptInferPruner(Pruner):
    """Text-to-image attention weighted by each text token's importance (AdaptInfer's code).

    Head by head, a text token's importance is its column sum in the symmetric text-to-text
    attention TT + TTᵀ - diag(TT); the score sums importance times text-to-image attention over
    heads and text. Text is what follows the image. The stage's own layer is read, before it runs:
    the layers below are counted that way.
    """

    name = "adaptinfer"
    paper = "arXiv 2508.06084"
    needs = frozenset({"attention"})
    published = tuple(
        Published(f"LLaVA-1.5-7B, {budget} tokens", 32, (1, 10, 20), tuple(n / 576 for n in kept))
        for budget, kept in (
            (128, (290, 72, 18)), (64, (133, 27, 3)), (48, (80, 24, 2)), (32, (40, 12, 0))
        )
    )

    def forward(self, view: View) -> Tensor:
        attention = view.blocks("attention")
        text = attention("question", "question")
        both = text + text.mT
        both.diagonal(dim1=-2, dim2=-1).sub_(text.diagonal(dim1=-2, dim2=-1))
        importance = both.sum(-2)[..., None]
        return total_attention(importance * attention("question"))
