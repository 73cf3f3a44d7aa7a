"""ANLS. Cases follow the Robust Reading Competition's script, as in lmms-eval's ``anls``."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.anls import Anls, levenshtein, similarity


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("1997", "1997", 1),
        ("Paris", "paris", 1),              # case does not count
        ("hello", "hallo", 4 / 5),
        ("cat", "dog", 0),                  # similarity 0
        ("abcd", "abxy", 1 / 2),            # exactly the threshold counts
        ("abcde", "abxyz", 0),              # 2/5 is below it
        ("", "word", 0),
        ("", "", 1),
        ("new  york", "new york", 1),       # runs of space are one, and no distance is left
        ("kitten", "sitting", 4 / 7),       # distance 3 over 7
        # the length is that of the strings as given: 1 letter off of 3, over 5 with its spaces
        ("  cat", "cab", 4 / 5),
        ("the answer is 1997", "1997", 0),  # 14 of 18
    ],
)
def test_similarity(prediction, reference, value):
    assert similarity(prediction, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_levenshtein(one, other, distance):
    assert levenshtein(one, other) == levenshtein(other, one) == distance


def test_the_best_reference_counts_and_samples_are_averaged():
    metric = Anls()
    metric.update(["hallo", "cat"], [["hello", "hallo", "x"], ["dog"]])
    assert metric.compute()["anls"].item() == pytest.approx(0.5)


def test_a_sample_without_references_is_refused():
    with pytest.raises(UserError, match="has no references"):
        Anls().update(["x"], [[]])
