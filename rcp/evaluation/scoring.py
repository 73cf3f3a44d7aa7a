"""How answers are scored: each by itself, for paired tests, and all together, as a set reports."""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence

from rcp.conversations import Sample
from rcp.objectives.exact_match import ExactMatch, is_right
from rcp.refusals import refuse_unequal


class Scoring(ABC):
    """The rule of one set of questions.

    ``primary``: which of the ``figures`` a table calls accuracy; ``percent``: whether that is a
    share, which tables print in percent, or has a unit of its own.
    """

    primary: str
    percent: bool = True

    @abstractmethod
    def score(self, answer: str, sample: Sample) -> float:
        """What ``answer`` to ``sample`` is worth by itself, from 0 to 1.

        Contestants are compared question by question with it. Its mean need not be the primary
        figure, which may be no mean at all.
        """

    @abstractmethod
    def figures(self, answers: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """The official figures of all ``answers`` together, by name, the primary one among them.

        In the metric's own unit; NaN where there is nothing to take a figure of. Raises
        ``UserError`` for sequences of unequal length, and for what the metric refuses.
        """

    def references(self, sample: Sample) -> list[str]:
        """The answers to ``sample`` that are shown beside a model's: all that its score knows."""
        return [sample.answer]


class ExactMatchScoring(Scoring):
    """Right is what equals the sample's answer, up to case and surrounding space.

    The figures are shares from 0 to 1: ``accuracy``, and ``accuracy_<type>`` of each question type
    among the samples.
    """

    primary = "accuracy"

    def score(self, answer: str, sample: Sample) -> float:
        return float(is_right(answer, sample.answer))

    def figures(self, answers: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        types = [sample.question_type for sample in samples]
        metric = ExactMatch(sorted(set(types)))
        metric.update(answers, [sample.answer for sample in samples], types)
        return {name: value.item() for name, value in metric.compute().items()}


def mean_by_type(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """The mean score of the samples of each question type, sorted by type.

    Raises ``UserError`` for sequences of unequal length.
    """
    refuse_unequal(scores=scores, samples=samples)
    by_type: dict[str, list[float]] = {}
    for score, sample in zip(scores, samples):
        by_type.setdefault(sample.question_type, []).append(score)
    return {kind: statistics.fmean(by_type[kind]) for kind in sorted(by_type)}
