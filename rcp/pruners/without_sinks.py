"""Visual attention sinks: tokens with massive activations do not count as attended to."""

from typing import Any

import torch
from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.reweighted import ReweightingPruner
from rcp.typed_values import check_range


class WithoutSinksPruner(ReweightingPruner):
    """Another method that sees no attention to visual sinks (VAR's code detects, we exclude).

    A token is a sink if, after RMSNorm without weight, one of the ``dimensions`` of its layer
    input exceeds ``threshold`` in magnitude. The published dimensions: LLaVA-1.5-7B 1415 and
    2533, 13B 2100 and 4743, Qwen2-VL-7B 458 and 2570, InternVL2-8B 3584; by default all are
    looked at. [ours] No entry can exceed the root of the width: below a width of 400 the
    published threshold of 20 finds nothing. VAR itself hands the attention freed to other image
    tokens in every layer and drops none; as a pruner only its detection is of use.
    """

    name = "without_sinks"
    paper = "arXiv 2503.03321"
    needs = frozenset({"layer_input"})

    def __init__(
        self,
        hidden_size: int,
        *,
        threshold: float = 20.0,
        dimensions: list[int] | None = None,
        method: str = "question_attention",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(hidden_size, method=method, arguments=arguments)
        if dimensions == []:
            raise ValueError("dimensions is empty, and null stands for all")
        for dimension in dimensions or ():
            check_range("a dimension", dimension, 0, hidden_size - 1)
        self.threshold = threshold
        self.dimensions = dimensions

    def factor(self, view: View) -> Tensor:
        state = view.given("layer_input").float()
        state = state * (state.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        if self.dimensions is not None:
            state = state[..., torch.tensor(self.dimensions, device=state.device)]
        return (state.abs().amax(-1) <= self.threshold).float()
