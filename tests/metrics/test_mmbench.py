"""Circular evaluation. Cases follow multiple_choice.py and matching_util.py of VLMEvalKit."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.mmbench import MmBench, option_of

OPTIONS = ["a cat", "a dog", "a bird"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. a dog", "B"),
        ("Answer: C", "C"),
        ("A or B", None),                         # two letters, and no text
        ("b", None),
        ("a dog", "B"),
        ("It is a DOG", "B"),
        ("It is A DOG", "A"),                     # a capital article is a letter
        ("a cat and a dog", None),                # two texts
        ("B, a cat", "B"),                        # the letter decides before the text does
        ("E", None),
        ("I see a dog that runs after something in the park", None),  # longer than twice 16
        ("", None),
    ],
)
def test_which_option_an_answer_names(answer, letter):
    assert option_of(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("right", "circular", "vanilla"),
    [
        # per question, whether its rotations 0, 1, ... were answered rightly
        ([[1]], 1, 1),
        ([[0]], 0, 0),
        ([[1, 1, 1, 1]], 1, 1),
        ([[1, 1, 1, 0]], 0, 1),
        ([[0, 1, 1, 1]], 0, 0),
        ([[1, 1], [1, 0]], 1 / 2, 1),
        ([[1, 1], [0, 0]], 1 / 2, 1 / 2),
        ([[0, 1], [1, 0]], 0, 1 / 2),
        ([[1, 1, 1], [1, 1]], 1, 1),                    # as many rotations as options
        ([[1, 1, 1], [1, 0], [0, 0]], 1 / 3, 2 / 3),
        ([[1], [1], [1], [0]], 3 / 4, 3 / 4),
    ],
)
def test_a_question_counts_if_every_rotation_does(right, circular, vanilla):
    metric = MmBench()
    for question, rotations in enumerate(right):
        for rotation, hit in enumerate(rotations):
            index = question + rotation * 1_000_000
            metric.update(["A" if hit else "B"], ["A"], [OPTIONS], [index])
    found = metric.compute()
    assert found["circular"].item() == pytest.approx(circular)
    assert found["vanilla"].item() == pytest.approx(vanilla)
    assert found["unparsable"].item() == 0


def test_unparsable_answers_are_wrong():
    metric = MmBench()
    metric.update(["A", "?"], ["A", "A"], [OPTIONS] * 2, [7, 1_000_007])
    found = metric.compute()
    assert found["circular"].item() == 0 and found["unparsable"].item() == 0.5


def test_negative_indices_and_letters_without_option_are_refused():
    with pytest.raises(UserError, match="index -1"):
        MmBench().update(["A"], ["A"], [OPTIONS], [-1])
    with pytest.raises(UserError, match="none of 3 options"):
        MmBench().update(["A"], ["D"], [OPTIONS], [0])
