"""Relaxed accuracy. Cases follow ``relaxed_correctness`` of google-research/pix2struct."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.relaxed_accuracy import RelaxedAccuracy, is_right


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("100", "100", True),
        ("105", "100", True),        # exactly 5 %
        ("94.9", "100", False),
        ("-96", "-100", True),
        ("-100", "100", False),
        ("50%", "50", False),        # 0.5
        ("50%", "0.5", True),
        ("51%", "50%", True),
        ("0", "0", True),            # a true 0 has to be met as a string
        ("0.0", "0", False),
        ("1,000", "1000", False),    # no number, and another string
        ("$5", "5", False),
        ("Blue", "blue", True),
        (" blue\n", "Blue", True),
        ("light blue", "blue", False),
        ("", "5", False),
        ("five", "5", False),
        ("2e3", "2000", True),
    ],
)
def test_what_is_right(prediction, reference, right):
    assert is_right(prediction, reference) is right


def test_the_splits_stand_apart():
    metric = RelaxedAccuracy()
    metric.update(["1", "2", "3"], ["1", "1", "3"], ["human", "human", "augmented"])
    found = metric.compute()
    assert found["accuracy_human"].item() == 0.5 and found["accuracy_augmented"].item() == 1
    assert found["accuracy"].item() == pytest.approx(2 / 3)


def test_another_split_is_refused():
    with pytest.raises(UserError, match="no split 'test'"):
        RelaxedAccuracy().update(["1"], ["1"], ["test"])
