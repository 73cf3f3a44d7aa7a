"""FastV: what the last token attended to in the layer before."""

from torch import Tensor

from rcp.pruners.base import Pruner
from rcp.view import View


class FastVPruner(Pruner):
    """The last prompt token's attention one layer earlier, mean over heads (FastV [note]).

    As published, tokens go once, after layer K = 2 of 32 (counted from 1), by that layer's
    attention; a stage at our 0-based layer l reads layer l - 1, so K is ``layers: [2]``. The paper
    speaks of the attention a token receives from all others, its released code takes the last
    row, and so do we. Half of the tokens stay.
    """

    name = "fastv"
    paper = "arXiv 2403.06764"
    needs = frozenset({"attention_before"})

    def forward(self, view: View) -> Tensor:
        assert view.attention_before is not None, "the runner supplies what `needs` names"
        return view.attention_before("last").mean(1)[:, 0]
