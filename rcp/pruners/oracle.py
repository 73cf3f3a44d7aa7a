"""Control: the attention of the full model, seen ahead of time."""

import torch
from torch import Tensor

from rcp.choosing.view import View
from rcp.errors import UserError
from rcp.pruners.base import Pruner


class OraclePruner(Pruner):
    """What the question attends to in the full model, known ahead: a control, and no upper bound.

    It runs the whole decoder once more ahead of the pruned forward, so that a stage at layer 0
    knows what layer 20 will look at; what it saves is lost to that. ``layers`` are the 0-based
    layers whose attention (mean over heads and question) is averaged, all by default; attention
    is not relevance, and some layers tell more than others. [ours]
    """

    name = "oracle"
    paper = "control"
    needs = frozenset({"full_attention"})

    def __init__(self, hidden_size: int, *, layers: list[int] | None = None) -> None:
        super().__init__(hidden_size)
        if layers == []:
            raise ValueError("layers is empty, and null stands for all")
        self.layers = layers

    def forward(self, view: View) -> Tensor:
        guide = view.given("full_attention")
        if self.layers is not None:
            if not all(0 <= layer < guide.shape[1] for layer in self.layers):
                raise UserError(
                    f"The pruner 'oracle' is to average the layers {self.layers}, but the decoder "
                    f"has {guide.shape[1]}: 0 to {guide.shape[1] - 1} are allowed. Correct layers."
                )
            guide = guide[:, torch.tensor(self.layers, device=guide.device)]
        return guide.mean(1)
