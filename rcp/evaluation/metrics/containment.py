"""Containment: the text that stands in the image stands in the answer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

FORMULAS = "HME100k"


class Containment(AnswerMetric):
    """OCRBench's: a sample is right if any of its references occurs in the prediction.

    Both are compared in lower case, line breaks as spaces, outer white space gone; handwritten
    formulas (the data set "HME100k") with their case kept and without any space. lmms-eval lowers
    the case of predicted formulas only, and so can find no capital.
    (Liu et al. 2023; ``example.py`` of Yuliang-Liu/MultimodalOCR)

    ``right`` is the number of right samples, of 1000 over all of OCRBench, and ``accuracy`` their
    share, NaN without samples. An answer that repeats half the image is right as well.
    """

    name = "containment"
    source = "OCRBench, example.py of Yuliang-Liu/MultimodalOCR"
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        # right, samples
        self.add_state("counts", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        datasets: Sequence[str],
    ) -> None:
        """Count one batch; ``datasets`` are the names that OCRBench gives its parts.

        Raises ``UserError`` for columns of unequal length, a sample without references and an
        empty reference, which would occur in every answer.
        """
        refuse_unequal(predictions=predictions, references=references, datasets=datasets)
        for prediction, answers, dataset in zip(predictions, references, datasets):
            if not answers or not all(answer.strip() for answer in answers):
                raise UserError(
                    f"The references {quoted(list(answers))} of {quoted(prediction)} are none, or "
                    f"one is empty: give at least one text, and leave out empty ones."
                )
            plain = _formula if dataset == FORMULAS else _text
            self.counts[0] += any(plain(answer) in plain(prediction) for answer in answers)
            self.counts[1] += 1

    def compute(self) -> dict[str, Tensor]:
        """``right`` and ``accuracy``."""
        return {"right": self.counts[0].clone(), "accuracy": self.counts[0] / self.counts[1]}


def _text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")
