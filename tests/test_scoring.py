"""What an answer is worth, and what all of them are."""

import math

import pytest

from rcp.conversations import Sample
from rcp.errors import UserError
from rcp.evaluation.scoring import ExactMatchScoring, mean_by_type


def sample(answer, kind="colour"):
    return Sample("1", (), "what?", answer, kind)


@pytest.mark.parametrize(
    "said, wanted, worth",
    [("red", "red", 1.0), (" Red\n", "rEd ", 1.0), ("red.", "red", 0.0), ("", "red", 0.0)],
)
def test_exact_match_ignores_case_and_surrounding_space_only(said, wanted, worth):
    assert ExactMatchScoring().score(said, sample(wanted)) == worth


def test_figures_are_shares_overall_and_by_type():
    samples = [sample("red"), sample("two", "count"), sample("six", "count")]
    found = ExactMatchScoring().figures(["red", "two", "five"], samples)
    assert found == {"accuracy": 2 / 3, "accuracy_colour": 1.0, "accuracy_count": 0.5}
    assert ExactMatchScoring.primary in found


def test_nothing_has_no_figure():
    assert math.isnan(ExactMatchScoring().figures([], [])["accuracy"])


def test_answers_without_samples_are_refused():
    with pytest.raises(UserError, match="2 predictions, 1 answers"):
        ExactMatchScoring().figures(["red", "blue"], [sample("red")])
    with pytest.raises(UserError, match="1 scores, 0 samples"):
        mean_by_type([1.0], [])


def test_means_by_type_are_sorted_by_type():
    samples = [sample("a", "count"), sample("b", "colour"), sample("c", "count")]
    found = mean_by_type([0.25, 1.0, 0.5], samples)
    assert found == {"colour": 1.0, "count": 0.375} and list(found) == ["colour", "count"]
