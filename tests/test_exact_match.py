"""Answers that count: what accuracy is made of."""

import pytest

from rcp.objectives.exact_match import ExactMatch


def test_accuracy_adds_up_over_batches_and_types():
    metric = ExactMatch(["colour", "count", "once", "never"])
    metric.update(["yes"], ["YES"], ["once"])
    metric.update([" Red", "blue"], ["red ", "green"], ["colour", "colour"])
    metric.update(["Two", "2", "three"], ["two", "two", "THREE"], ["count"] * 3)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == {
        "accuracy": pytest.approx(4 / 6),
        "accuracy_colour": pytest.approx(1 / 2),
        "accuracy_count": pytest.approx(2 / 3),
        "accuracy_once": 1.0,
        "accuracy_never": 0.0,
    }


def test_nothing_asked_is_nothing_right_and_no_division_by_zero():
    assert ExactMatch(["colour"]).compute()["accuracy"] == 0


def test_sequences_of_different_lengths_are_an_error():
    with pytest.raises(ValueError):
        ExactMatch(["colour"]).update(["red", "blue"], ["red"], ["colour"])


def test_counts_of_processes_are_added():
    metric = ExactMatch(["colour"])
    assert set(metric._reductions) == {"correct", "total"}
    assert all(reduce.__name__ == "dim_zero_sum" for reduce in metric._reductions.values())
