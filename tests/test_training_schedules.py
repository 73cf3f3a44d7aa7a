"""Temperature, noise, budget target and learning rate at the points that define them."""

import pytest

from rcp import UserError
from rcp.training.curves import TemperatureCurve, budget_target, learning_rate_factor


def test_temperature_falls_to_60_percent_and_noise_ends_at_80():
    schedule = TemperatureCurve()
    assert schedule.temperature_at(0) == 1.5
    assert schedule.temperature_at(0.3) == pytest.approx(0.85)
    assert schedule.temperature_at(0.6) == schedule.temperature_at(1) == pytest.approx(0.2)
    assert [schedule.noise_at(p) for p in (0, 0.7, 0.8, 1)] == [1, 1, 0, 0]


def test_a_constant_temperature_without_noise():
    schedule = TemperatureCurve(start=0.25, end=0.25, fall_until=0, noise=0)
    assert {schedule.temperature_at(p) for p in (0, 0.5, 1)} == {0.25}
    assert schedule.noise_at(0) == 0


@pytest.mark.parametrize(
    "wrong", [{"start": 0}, {"end": -1}, {"noise": -1}, {"fall_until": 1.5}, {"noise_until": -0.1}]
)
def test_impossible_schedules_are_refused_by_field(wrong):
    with pytest.raises(UserError, match=f"temperature.{next(iter(wrong))} is"):
        TemperatureCurve(**wrong)


def test_budget_target_is_a_cosine_from_one():
    values = [budget_target(p, 0.1, 0.2) for p in (0, 0.1, 0.2, 0.7)]
    assert values == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert budget_target(0, 0.1, 0) == pytest.approx(0.1)


def test_learning_rate_warms_up_and_ends_at_its_floor():
    values = [learning_rate_factor(p, 0.1, 0.1) for p in (0, 0.05, 0.1, 0.55, 1)]
    assert values == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert learning_rate_factor(0, 0, 0.1) == 1
