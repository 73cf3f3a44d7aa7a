"""Answers that count: what accuracy is made of."""

import math

import pytest

from rcp.errors import UserError
from rcp.objectives.exact_match import ExactMatch


def test_accuracy_adds_up_over_batches_and_types():
    metric = ExactMatch(["colour", "count", "once", "never"])
    metric.update(["yes"], ["YES"], ["once"])
    metric.update([" Red", "blue"], ["red ", "green"], ["colour", "colour"])
    metric.update(["Two", "2", "three"], ["two", "two", "THREE"], ["count"] * 3)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert math.isnan(found.pop("accuracy_never"))
    assert found == {
        "accuracy": pytest.approx(4 / 6),
        "accuracy_colour": pytest.approx(1 / 2),
        "accuracy_count": pytest.approx(2 / 3),
        "accuracy_once": 1.0,
    }


def test_a_type_that_is_not_listed_is_refused_and_nothing_is_counted():
    metric = ExactMatch(["colour", "count"])
    with pytest.raises(UserError, match="type 'size' is not among colour, count"):
        metric.update(["red", "big"], ["red", "big"], ["colour", "size"])
    assert metric.compute()["accuracy"].isnan()


def test_counts_of_processes_are_added():
    metric = ExactMatch(["colour"])
    assert set(metric._reductions) == {"correct", "total"}
    assert all(reduce.__name__ == "dim_zero_sum" for reduce in metric._reductions.values())
