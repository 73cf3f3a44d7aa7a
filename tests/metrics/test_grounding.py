"""IoU >= 0.5. Cases follow utils_rec.py of lmms-eval (RefCOCO)."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.grounding import BoxAccuracy, box_of, iou

SQUARE = (0.0, 0.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("box", "value"),
    [
        ((0, 0, 2, 2), 1),
        ((0, 0, 1, 2), 1 / 2),            # half of it, inside
        ((1, 0, 3, 2), 2 / 6),
        ((1, 1, 3, 3), 1 / 7),
        ((0, 0, 4, 4), 4 / 16),
        ((2, 0, 4, 2), 0),                # they touch
        ((5, 5, 6, 6), 0),
        ((0, 0, 0, 0), 0),
        ((2, 2, 0, 0), 0),                # inside out
        ((-1, 0, 2, 2), 4 / 6),
        ((0.5, 0.5, 1.5, 1.5), 1 / 4),
    ],
)
def test_iou(box, value):
    assert iou(box, SQUARE) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("It is at [ 1,2,3,4 ].", (1, 2, 3, 4)),
        ("[-1, 0, 2, 2]", (-1, 0, 2, 2)),
        ("[1, 2, 3] then [1, 2, 3, 4]", (1, 2, 3, 4)),
        ("[1, 2, 3, 4] or [5, 6, 7, 8]", (1, 2, 3, 4)),
        ("1, 2, 3, 4", None),                  # no brackets
        ("(1, 2, 3, 4)", None),
        ("[1, 2, 3, 4, 5]", None),
        ("[.1, .2, .3, .4]", None),            # a number starts with a digit
        ("[[1, 2, 3, 4]]", (1, 2, 3, 4)),
        ("", None),
    ],
)
def test_the_box_of_an_answer(prediction, box):
    assert box_of(prediction) == box


def test_exactly_half_counts_and_no_box_does_not():
    metric = BoxAccuracy()
    metric.update(["[0, 0, 1, 2]", "[1, 0, 3, 2]", "there"], [SQUARE] * 3)
    found = metric.compute()
    assert found["accuracy"].item() == pytest.approx(1 / 3)
    assert found["mean_iou"].item() == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert found["unparsable"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("reference", [(0, 0, 1), (3, 3, 1, 1), (3, 3, 5, 2), (0, 0, 0, 1)])
def test_references_that_are_no_box_are_refused(reference):
    with pytest.raises(UserError, match="is not a box"):
        BoxAccuracy().update(["x"], [reference])
