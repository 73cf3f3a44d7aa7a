"""Accuracy of boxes: is the object where the answer says?"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")
THRESHOLD = 0.5

Box = Sequence[float]


class BoxAccuracy(AnswerMetric):
    """Share of samples whose box overlaps the true one with IoU >= 0.5: RefCOCO, +, g.

    IoU is the area of the intersection over that of the union. A prediction's box is its first
    "[x1, y1, x2, y2]" of four numbers; **without one it is all zeros**, and so wrong. Both boxes
    are in one unit, in lmms-eval shares of width and height. (Yu et al. 2016; the rule of reading
    is that of ``utils_rec.py`` of lmms-eval)

    ``accuracy``, ``mean_iou`` and ``unparsable``, the share without a box: 0 to 1, NaN without
    samples.
    """

    name = "box_accuracy"
    source = "RefCOCO, utils_rec.py of lmms-eval"
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # right, IoU, unparsable, samples
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Box]) -> None:
        """Count one batch; ``references`` are boxes (x1, y1, x2, y2), x1 < x2 and y1 < y2.

        Raises ``UserError`` for columns of unequal length and for references that are no such box.
        """
        refuse_unequal(predictions=predictions, references=references)
        for prediction, reference in zip(predictions, references):
            if len(reference) != 4 or _area(reference) <= 0 or reference[0] >= reference[2]:
                raise UserError(
                    f"The reference {quoted(list(reference))} is not a box: give (x1, y1, x2, y2) "
                    f"with x1 < x2 and y1 < y2, not width and height."
                )
            predicted = box_of(prediction)
            overlap = iou(predicted or (0.0, 0.0, 0.0, 0.0), reference)
            row = [overlap >= THRESHOLD, overlap, predicted is None, 1.0]
            self.sums += self.sums.new_tensor(row)

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``mean_iou`` and ``unparsable``."""
        accuracy, mean_iou, unparsable = self.sums[:3] / self.sums[3]
        return {"accuracy": accuracy, "mean_iou": mean_iou, "unparsable": unparsable}


def box_of(prediction: str) -> Box | None:
    """The first four numbers in brackets, None if there are none."""
    match = BOX.search(prediction)
    return match and tuple(float(number) for number in match.groups())


def iou(one: Box, other: Box) -> float:
    """Intersection over union; 0 where they do not meet or one is turned inside out."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(one) + _area(other) - width * height)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
