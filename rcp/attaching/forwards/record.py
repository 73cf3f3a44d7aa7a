"""The teacher's forward: nothing is changed, what the trace asks for is observed."""

from collections.abc import Callable

import torch
from torch import Tensor

from rcp.attaching.forwards.at_entry import entry_rope, with_positions
from rcp.attaching.forwards.attention import LayerAttention
from rcp.attaching.forwards.forward import Arguments, Forward, Setup
from rcp.attaching.forwards.place import Place
from rcp.attaching.masks import meeting, with_key_bias
from rcp.attaching.trace import Trace
from rcp.backbones.base import Rope
from rcp.choosing.tokens import TokenMap
from rcp.choosing.view import mean_over_question


class RecordForward(Forward):
    """Runs the frozen model as it is."""

    wants_full_attention = False

    def __init__(self, setup: Setup, tokens: TokenMap, trace: Trace | None) -> None:
        if trace is not None and trace.view_layers:
            tokens = tokens.with_a_slot()  # who scores a view must be able to, whatever is there
        super().__init__(setup, tokens, trace)

    def enter(self, arguments: Arguments) -> Arguments:
        arguments = super().enter(arguments)
        trace = self.trace
        if trace is None or not trace.enters:
            return arguments
        # also of text alone: processes go backward together
        trace.entered = arguments["inputs_embeds"].detach().requires_grad_()
        trace.visual_columns = self.tokens.visual_columns
        return arguments | {"inputs_embeds": trace.entered}

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


class EntryRecord(RecordForward):
    """Looks at the decoder's input alone, as a stage sees it that shortens the prompt."""

    def enter(self, arguments: Arguments) -> Arguments:
        arguments = super().enter(arguments)
        if self.trace is not None and 0 in self.trace.view_layers:
            # as where rows go: padding is known, the rest is causal
            given = with_positions(arguments) | {"attention_mask": None}
            place = self.place(0, arguments["inputs_embeds"], given).to(self.backbone.device(0))
            self.trace.views[0] = self.view(self.plugin.pruner(0), place).made()
        return arguments

    def rope_maker(self, arguments: Arguments) -> Callable[[], Rope]:
        return entry_rope(self.backbone, arguments)
