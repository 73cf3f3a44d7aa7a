"""Two contestants, question by question: against values worked out by hand."""

import math

import numpy as np
import pytest

from rcp.evaluation.paired import bootstrap_interval, mcnemar, over_seeds, paired


def outcomes(both, gained, lost, neither):
    """Who gets which question right."""
    mine = [True] * both + [True] * gained + [False] * lost + [False] * neither
    theirs = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return np.array(mine, bool), np.array(theirs, bool)


@pytest.mark.parametrize(
    "gained, lost, p",
    [
        (3, 12, 2 * (1 + 15 + 105 + 455) / 2**15),
        (12, 3, 2 * (1 + 15 + 105 + 455) / 2**15),
        (0, 5, 2 / 2**5),
        (0, 6, 2 / 2**6),
        (4, 4, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_counts_what_only_one_of_the_two_gets_right(gained, lost, p):
    for both, neither in ((0, 0), (70, 0), (20, 9)):
        assert math.isclose(mcnemar(*outcomes(both, gained, lost, neither)), p)


def test_half_a_score_is_right():
    half, less, none = np.array([0.5] * 6), np.array([0.49] * 6), np.zeros(6)
    assert paired(half, none).p == 2 / 2**6
    assert paired(less, none).p == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("difference", [0.0, 1.0, -1.0, 0.25])
@pytest.mark.parametrize("count", [2, 50])
def test_equal_differences_leave_no_doubt(difference, count):
    assert bootstrap_interval(np.full(count, difference)) == (difference, difference)


@pytest.mark.parametrize("count", [0, 1])
def test_one_question_says_nothing_of_others(count):
    assert bootstrap_interval(np.ones(count)) is None


def test_the_interval_is_as_wide_as_the_normal_one_of_many():
    """Of 200 lost and 200 equal: mean -0.5, standard error 0.5 / 20."""
    low, high = bootstrap_interval(np.array([-1.0, 0.0] * 200))
    assert abs(low - (-0.5 - 1.96 * 0.025)) < 0.005 and abs(high - (-0.5 + 1.96 * 0.025)) < 0.005


def test_the_interval_is_the_same_in_every_run_and_turns_with_its_sides():
    generator = np.random.default_rng(7)
    mine, theirs = generator.random(300), generator.random(300)
    assert paired(mine, theirs) == paired(mine, theirs)
    low, high = paired(mine, theirs).interval
    back, forth = paired(theirs, mine).interval
    assert abs(low + forth) < 0.004 and abs(high + back) < 0.004  # the draws are others'


def test_pairing_takes_out_what_is_hard_for_both():
    """The same difference of means: from one question in fifty, or from questions at odds."""
    hard = np.array([1.0, 0.0] * 50)
    same = hard.copy()
    same[:2] = 0.0
    (low, high), (wide_low, wide_high) = (
        paired(other, hard).interval for other in (same, np.roll(same, 1))
    )
    assert high - low < 0.1 < wide_high - wide_low


def test_seeds_are_a_mean_for_each_question():
    assert over_seeds([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]]).tolist() == [0.5, 0.0, 0.75]
