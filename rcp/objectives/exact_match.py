"""Accuracy of generated answers, overall and by question type."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class ExactMatch(Metric):
    """Share of predictions equal to the answer, up to case and surrounding space.

    ``question_types`` lists all types that may occur, so that ranks which saw different ones can
    be added up.
    """

    correct: Tensor
    total: Tensor

    def __init__(self, question_types: Sequence[str]) -> None:
        super().__init__()
        self.question_types = list(question_types)
        for state in ("correct", "total"):
            self.add_state(state, torch.zeros(len(self.question_types)), dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[str], answers: Sequence[str], question_types: Sequence[str]
    ) -> None:
        """Count one batch; the three sequences run in parallel."""
        for prediction, answer, kind in zip(predictions, answers, question_types, strict=True):
            column = self.question_types.index(kind)
            self.total[column] += 1
            self.correct[column] += prediction.strip().lower() == answer.strip().lower()

    def compute(self) -> dict[str, Tensor]:
        """``accuracy`` over all questions and ``accuracy_<type>`` for each type."""
        by_type = self.correct / self.total.clamp(min=1)
        named = {f"accuracy_{kind}": by_type[i] for i, kind in enumerate(self.question_types)}
        return {"accuracy": self.correct.sum() / self.total.sum().clamp(min=1), **named}
