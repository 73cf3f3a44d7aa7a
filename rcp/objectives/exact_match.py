"""Accuracy of generated answers, overall and by question type."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from rcp.errors import UserError
from rcp.refusals import refuse_unequal


class ExactMatch(Metric):
    """Share of predictions equal to the answer, up to case and surrounding space.

    ``question_types`` lists all types that may occur, so that ranks which saw different ones can
    be added up.
    """

    name: ClassVar[str] = "exact_match"
    full_state_update = False  # None would forbid ``merge_state``
    correct: Tensor
    total: Tensor

    def __init__(self, question_types: Sequence[str]) -> None:
        super().__init__()
        self.question_types = list(question_types)
        for state in ("correct", "total"):
            zeros = torch.zeros(len(self.question_types), dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[str], answers: Sequence[str], question_types: Sequence[str]
    ) -> None:
        """Count one batch; the three sequences run in parallel.

        Raises ``UserError`` for sequences of unequal length and for a type that is not listed.
        """
        refuse_unequal(predictions=predictions, answers=answers, question_types=question_types)
        if unknown := sorted(set(question_types) - set(self.question_types)):
            raise UserError(
                f"The question type '{unknown[0]}' is not among {', '.join(self.question_types)}. "
                f"List all types that may occur."
            )
        for prediction, answer, kind in zip(predictions, answers, question_types):
            column = self.question_types.index(kind)
            self.total[column] += 1
            self.correct[column] += is_right(prediction, answer)

    def compute(self) -> dict[str, Tensor]:
        """``accuracy`` over all questions and ``accuracy_<type>`` for each type.

        0-d fp64; NaN where nothing was asked.
        """
        by_type = self.correct / self.total
        named = {f"accuracy_{kind}": by_type[i] for i, kind in enumerate(self.question_types)}
        return {"accuracy": self.correct.sum() / self.total.sum(), **named}


def is_right(prediction: str, answer: str) -> bool:
    """Whether the two are equal, up to case and surrounding space."""
    return prediction.strip().lower() == answer.strip().lower()
