"""ANLS: how much of an answer was read rightly."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

THRESHOLD = 0.5


class Anls(AnswerMetric):
    """Average normalised Levenshtein similarity: DocVQA's and InfographicVQA's.

    Mean over samples of max over references of 1 - distance / length, 0 where that is below 0.5.
    The distance is that of both strings in lower case with runs of white space made one space; the
    length is the longer one's **before** that, so that a trailing space costs. A similarity of
    exactly 0.5 counts, as in the code; the paper's strict inequality drops it. (Biten et al. 2019;
    the evaluation script of the Robust Reading Competition, as in lmms-eval)

    ``compute`` gives ``anls``, 0 to 1; NaN without samples. An empty prediction scores 0, or 1 if a
    reference is empty.
    """

    name = "anls"
    source = "Biten et al. 2019, evaluation script of the Robust Reading Competition"
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # scores, samples
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Count one batch; ``references`` holds the accepted answers of each sample.

        Raises ``UserError`` for columns of unequal length and for a sample without references.
        """
        refuse_unequal(predictions=predictions, references=references)
        for prediction, answers in zip(predictions, references):
            if not answers:
                raise UserError(
                    f"The prediction {quoted(prediction)} has no references: give at least one."
                )
            score = max(similarity(prediction, answer) for answer in answers)
            self.sums += self.sums.new_tensor([score, 1.0])

    def compute(self) -> dict[str, Tensor]:
        """``anls``"""
        return {"anls": self.sums[0] / self.sums[1]}


def similarity(prediction: str, reference: str) -> float:
    """1 - distance / length, or 0 where that is below the threshold."""
    length = max(len(prediction), len(reference))
    if length == 0:
        return 1.0
    distance = levenshtein(*(" ".join(text.lower().split()) for text in (prediction, reference)))
    value = 1 - distance / length
    return value if value >= THRESHOLD else 0.0


def levenshtein(one: str, other: str) -> int:
    """The fewest letters put in, taken out or exchanged that make one string the other."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, its in enumerate(other, 1):
            exchanged = above[column - 1] + (letter != its)
            line.append(min(exchanged, above[column] + 1, line[-1] + 1))
        above = line
    return above[-1]
