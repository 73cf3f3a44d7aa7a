"""FastV: what the last token attended to in the layer before."""

from torch import Tensor

from rcp.choosing.schedule import Published
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner


class FastVPruner(Pruner):
    """The last prompt token's attention one layer earlier, mean over heads (a note on FastV).

    As published, tokens go once, after layer K = 2 (counted from 1) and by that layer's attention;
    a stage at our 0-based layer l reads layer l - 1, so K = 2 is ``layers: [2]``. The paper speaks
    of the attention a token receives from all others, its code takes the last row, as here.
    """

    name = "fastv"
    paper = "arXiv 2403.06764"
    needs = frozenset({"attention_before"})
    published = (Published("LLaVA-1.5-7B", 32, (2,), (0.5,)),)

    def forward(self, view: View) -> Tensor:
        return total_attention(view.blocks("attention_before")("last"))
