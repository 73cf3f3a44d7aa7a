"""PyramidDrop: what the last instruction token attends to, stage after stage."""

from torch import Tensor

from rcp.choosing.schedule import Published
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner


class PyramidDropPruner(Pruner):
    """The last instruction token's attention in the stage's own layer (a note on PyramidDrop).

    Softmax over all keys, mean over heads. As published, half of the tokens left go at each of
    three layers; the query and keys are projected from the input of the layer they go at, which
    is what a stage here does. Training with the pyramid, the paper's other half, is not here.
    """

    name = "pyramiddrop"
    paper = "arXiv 2410.17247"
    needs = frozenset({"attention"})
    published = (Published("LLaVA-1.5-7B", 32, (8, 16, 24), (0.5, 0.25, 0.125)),)

    def forward(self, view: View) -> Tensor:
        return total_attention(view.blocks("attention")("last"))
