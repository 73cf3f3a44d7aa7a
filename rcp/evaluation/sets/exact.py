"""Sets whose short answers have to be equal to the reference."""

from collections.abc import Sequence

from rcp.conversations import Sample
from rcp.evaluation.metrics.answer_metric import METRICS
from rcp.evaluation.sets.base import EvaluationSet, Facts
from rcp.objectives.exact_match import is_right


class ExactSet(EvaluationSet):
    """Facts are ``answers``, the reference, and ``question_types``, whose figures stand apart."""

    metric = "exact_match"
    primary = "accuracy"

    def score(self, answer: str, sample: Sample) -> float:
        assert sample.facts is not None
        return float(is_right(self.parsed(answer, sample), sample.facts["answers"]))

    def _figures(self, predictions: Sequence[str], facts: Sequence[Facts]) -> dict[str, float]:
        # the metric has to be told beforehand which types there are
        types = sorted({one["question_types"] for one in facts})
        self.counter = METRICS.get(self.metric)(types)
        return super()._figures(predictions, facts)

    def _refuse_unscorable(self, facts: Facts) -> None:
        """No text is refused."""
