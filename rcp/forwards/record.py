"""The teacher's forward: nothing is changed, answer rows are observed."""

from torch import Tensor

from rcp.forwards.base import Forward


class RecordForward(Forward):
    """Runs the frozen model as it is."""

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        self.record_answers(layer, hidden, self.tokens.answer_columns)
        return hidden
