"""Budgets, schedules and their means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcp.choosing.schedule import Schedule, ratio_of, schedule_for
from rcp.errors import UserError


@pytest.mark.parametrize(
    "layers, percent, mean_tokens",
    [
        ((4, 14, 24), (60.21, 7.47, 1.56), 192),
        ((4, 14, 24), (25.84, 4.13, 1.54), 128),
        ((1, 13, 25), (16.72, 4.59, 1.44), 64),
    ],
)
def test_the_published_retention_gives_the_published_budget(layers, percent, mean_tokens):
    """RCP's table (rcp.md section 1): the layer-weighted mean is the budget, within 3 %."""
    schedule = Schedule(layers, tuple(p / 100 for p in percent), 32)
    assert schedule.mean_ratio * 576 == pytest.approx(mean_tokens, rel=0.03)


@given(
    first=st.integers(0, 3),
    gaps=st.lists(st.integers(1, 6), min_size=0, max_size=3),
    budget=st.floats(0.01, 0.99),
)
def test_a_schedule_spends_exactly_its_budget(first, gaps, budget):
    layers = [first]
    for gap in gaps:
        layers.append(layers[-1] + gap)
    if budget <= first / 24:
        with pytest.raises(UserError, match="out of reach"):
            schedule_for(budget, tuple(layers), 24)
        return
    schedule = schedule_for(budget, tuple(layers), 24)
    assert schedule.mean_ratio == pytest.approx(budget)
    assert list(schedule.ratios) == sorted(schedule.ratios, reverse=True)


def test_sixty_four_tokens_behind_layer_four_is_explained():
    with pytest.raises(UserError, match="first pruning layer at 4"):
        schedule_for(64 / 576, (4, 14, 24), 32)


@pytest.mark.parametrize("mean, layers", [(0.5, ()), (1.01, (1, 8)), (float("nan"), (1, 8))])
def test_no_stage_and_more_than_everything_are_refused(mean, layers):
    with pytest.raises(UserError, match="is not a schedule. Name at least one layer"):
        schedule_for(mean, layers, 24)


def test_a_layer_beyond_the_model_is_named_with_what_is_allowed():
    with pytest.raises(UserError, match="layer 9 is outside the model.*0 to 3"):
        schedule_for(0.5, (1, 9), 4)


def test_counts_round_half_up_and_keep_at_least_one():
    schedule = Schedule((0, 1, 2), (0.5, 0.001, 0.0), 4)
    assert [schedule.count(stage, 5) for stage in range(3)] == [3, 1, 0]
    assert schedule.count(0, 0) == 0


@pytest.mark.parametrize("budget", [0, 577, -1])
def test_an_impossible_budget_is_refused(budget):
    with pytest.raises(UserError, match="1 to 576"):
        ratio_of(budget, 576)


def test_what_a_wipe_saves_is_spent_before_it():
    """A mean of 2 of 8 over 12 layers is 24 token-layers: over the 8 before the wipe 3 each."""
    assert schedule_for(0.25, (0,), 12, wiped_from=8) == Schedule((0, 8), (0.375, 0.0), 12)
    two = schedule_for(0.25, (2, 4), 12, decay=0.5, wiped_from=8)
    # two whole layers leave 1 of 3: 2 a + 4 (a / 2) = 1
    assert two.layers == (2, 4, 8) and two.ratios == pytest.approx((0.25, 0.125, 0.0))
    assert two.mean_ratio == pytest.approx(0.25)
    assert (two.wiped_from, two.decay) == (8, pytest.approx(0.5))
    assert Schedule((2,), (0.25,), 12).wiped_from is None


def test_another_budget_leaves_the_wipe_where_it_is():
    schedule = Schedule((2, 4, 8, 10), (0.25, 0.125, 0.0, 0.0), 12)
    other = schedule.at(0.3)
    assert other.layers == (2, 4, 8, 10)
    assert other.ratios == pytest.approx((0.4, 0.2, 0.0, 0.0))


def test_at_its_own_mean_a_schedule_is_itself_however_it_falls():
    """0.9, 0.5, 0.4 over 2, 2 and 4 of 8 layers are a mean of 0.55, and fall by no one factor."""
    schedule = Schedule((0, 2, 4), (0.9, 0.5, 0.4), 8)
    assert schedule.at(0.55) == schedule
    fallen = schedule.at(0.275).ratios  # by 2 / 3 on the mean: (2 + 4 / 3 + 16 / 9) r = 2.2
    assert fallen == pytest.approx((0.430435, 0.286957, 0.191304), rel=1e-5)
    assert Schedule((8,), (0.0,), 12).at(8 / 12).ratios == (0.0,)


@pytest.mark.parametrize(
    "mean, layers, at, message",
    [
        (0.7, (0,), 8, "more than the 8 layers before all are dropped can hold, 66.67%"),
        (0.1, (2,), 8, "out of reach"),
        (0.25, (8,), 8, "must rise"),
        (0.25, (0,), 12, "outside the model"),
        (0.25, (), 8, "at least one layer"),
    ],
)
def test_a_wipe_that_cannot_be_is_refused(mean, layers, at, message):
    with pytest.raises(UserError, match=message):
        schedule_for(mean, layers, 12, wiped_from=at)
