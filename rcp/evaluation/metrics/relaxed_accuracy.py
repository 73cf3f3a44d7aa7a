"""Relaxed accuracy: a number read off a chart may be five per cent off."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

SPLITS = ("human", "augmented")
TOLERANCE = 0.05


class RelaxedAccuracy(AnswerMetric):
    """ChartQA's: numbers within 5 % of the reference, anything else equal up to case.

    A number is what ``float`` reads, or that before a "%", divided by 100: "50%" is 0.5 and does
    not match "50". "1,000" and "$5" are no numbers. Where the reference is 0, or either side is no
    number, the strings have to be equal. Outer white space of predictions does not count.
    (Masry et al. 2022, 5.1; ``relaxed_correctness`` of google-research/pix2struct)

    ``accuracy`` over all, ``accuracy_human`` and ``accuracy_augmented``, 0 to 1; NaN without
    samples. The two splits are far apart, so a number without its split says little.
    """

    name = "relaxed_accuracy"
    source = "ChartQA, relaxed_correctness of google-research/pix2struct"
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        # a row a split: right, samples
        zeros = torch.zeros(len(SPLITS), 2, dtype=torch.float64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[str], references: Sequence[str], splits: Sequence[str]
    ) -> None:
        """Count one batch; ``splits`` are names of ``SPLITS``.

        Raises ``UserError`` for columns of unequal length and for any other split.
        """
        refuse_unequal(predictions=predictions, references=references, splits=splits)
        for prediction, reference, split in zip(predictions, references, splits):
            if split not in SPLITS:
                raise UserError(
                    f"ChartQA has no split {quoted(split)}. Choose {' or '.join(SPLITS)}."
                )
            row = self.counts[SPLITS.index(split)]
            row[0] += is_right(prediction, reference)
            row[1] += 1

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, and that of each split."""
        right, samples = self.counts.unbind(1)
        of_splits = {f"accuracy_{s}": right[i] / samples[i] for i, s in enumerate(SPLITS)}
        return {"accuracy": right.sum() / samples.sum(), **of_splits}


def is_right(prediction: str, reference: str) -> bool:
    """Whether ChartQA accepts ``prediction``."""
    predicted, true = _number(prediction.strip()), _number(reference)
    if predicted is None or not true:
        return prediction.strip().lower() == reference.lower()
    return abs(predicted - true) / abs(true) <= TOLERANCE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
