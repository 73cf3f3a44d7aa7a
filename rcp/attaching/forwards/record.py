"""The teacher's forward: nothing is changed, what the trace asks for is observed."""

import torch
from torch import Tensor

from rcp.attaching.forwards.attention import LayerAttention
from rcp.attaching.forwards.forward import Arguments, Forward, Setup
from rcp.attaching.forwards.place import Place
from rcp.attaching.masks import meeting, with_key_bias
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import TokenMap
from rcp.choosing.view import mean_over_question


class RecordForward(Forward):
    """Runs the frozen model as it is."""

    wants_full_attention = False

    def __init__(self, setup: Setup, tokens: TokenMap, trace: Trace | None) -> None:
        if trace is not None and trace.view_layers:
            tokens = tokens.with_a_slot()  # who scores a view must be able to, whatever is there
        super().__init__(setup, tokens, trace)

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        self.look_back(layer, hidden, arguments)
        trace = self.trace
        if trace is None:
            return hidden, arguments
        if layer in trace.attention_layers or layer in trace.view_layers:
            place = self.place(layer, hidden, arguments).to(self.backbone.device(layer))
            if layer in trace.attention_layers:
                trace.question_attention[layer] = self._question_attention(place)
            if layer in trace.view_layers:
                trace.views[layer] = self.view(self.plugin.pruner(layer), place).made()
        if layer in trace.bias_layers:  # also of text alone: processes go backward together
            mask = self._biased(trace, layer, hidden, arguments["attention_mask"])
            hidden, arguments = meeting(hidden, mask), arguments | {"attention_mask": mask}
        return hidden, arguments

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        self.record_answers(layer, hidden)
        return hidden

    def _biased(self, trace: Trace, layer: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's ``mask`` plus a leaf of zeros, where a gradient finds its attention."""
        batch, length = hidden.shape[:2]
        leaf = torch.zeros(batch, 1, length, length, device=hidden.device, requires_grad=True)
        trace.biases[layer], trace.visual_columns = leaf, self.tokens.visual_columns
        return with_key_bias(mask, leaf, self.tokens.columns, hidden.dtype)

    def _question_attention(self, place: Place) -> Tensor:
        attention = LayerAttention(self.backbone, place, self.tokens.image.device)
        return mean_over_question(attention("question"), self.tokens.question_at.valid)
