"""The teacher's forward: nothing is changed, what the trace asks for is observed."""

from torch import Tensor

from rcp.forwards.base import Arguments, Forward
from rcp.forwards.stage import Place, question_attention
from rcp.masking import take_rows


class RecordForward(Forward):
    """Runs the frozen model as it is."""

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        trace = self.trace
        if trace is None or not self.tokens.has_images:
            return hidden, arguments
        if layer in trace.attention_layers or layer in trace.view_layers:
            place = self.place(layer, hidden, arguments).to(self.backbone.device(layer))
            if layer in trace.attention_layers:
                trace.question_attention[layer] = self._question_attention(place)
            if layer in trace.view_layers:
                trace.views[layer] = self.view(self.plugin.pruner(layer), place)
        return hidden, arguments

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        self.record_answers(layer, hidden, self.tokens.answer_columns)
        return hidden

    def _question_attention(self, place: Place) -> Tensor:
        normed = self.backbone.input_norm(place.layer, place.hidden)
        question = take_rows(normed, place.question)
        valid = self.tokens.question_valid.to(normed.device)
        attention = question_attention(self.backbone, place, normed, question, valid)
        return attention.gather(1, place.visual).to(self.alive.device)
