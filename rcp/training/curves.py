"""What changes over a run, as pure functions of the share of steps done."""

import math
from dataclasses import dataclass

from rcp.errors import UserError


@dataclass
class TemperatureCurve:
    """Temperature and noise of the soft selection over a run. [draft]

    The temperature falls linearly from ``start`` to ``end`` until the share ``fall_until`` of the
    steps and stays there; the logistic noise is switched off from the share ``noise_until`` on,
    so that training ends as inference runs.

    Attributes:
        start: temperature at the first step
        end: temperature from the share ``fall_until`` of the steps on
        fall_until: share of the steps over which the temperature falls
        noise_until: share of the steps that are run with noise
        noise: scale of the logistic noise while it is on
    """

    start: float = 1.5
    end: float = 0.2
    fall_until: float = 0.6
    noise_until: float = 0.8
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if getattr(self, name) <= 0:
                raise UserError(
                    f"temperature.{name} is {getattr(self, name)}, but a temperature divides the "
                    "scores: give a number above 0."
                )
        if self.noise < 0:
            raise UserError(f"temperature.noise is {self.noise}: give 0 (no noise) or more.")
        _check_share("temperature.fall_until", self.fall_until)
        _check_share("temperature.noise_until", self.noise_until)

    def temperature_at(self, progress: float) -> float:
        """Temperature when the share ``progress`` of all steps is done."""
        fallen = 1.0 if self.fall_until == 0 else min(1.0, progress / self.fall_until)
        return self.start + (self.end - self.start) * fallen

    def noise_at(self, progress: float) -> float:
        """Noise scale when the share ``progress`` of all steps is done."""
        return self.noise if progress < self.noise_until else 0.0


def budget_target(progress: float, final: float, warmup: float) -> float:
    """Target r* of the mean kept ratio: a cosine from 1 to ``final`` over the share ``warmup``."""
    done = 1.0 if warmup == 0 else min(1.0, progress / warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def falling_budget(progress: float, first: float, last: float) -> float:
    """A mean ratio that falls geometrically from ``first`` to ``last`` over half of a phase."""
    return last * (first / last) ** max(0.0, 1.0 - 2.0 * progress)


def learning_rate_factor(progress: float, warmup: float, floor: float) -> float:
    """Factor on the learning rate: linear from 0 over ``warmup``, then a cosine to ``floor``."""
    if progress < warmup:
        return progress / warmup
    done = 1.0 if warmup >= 1 else min(1.0, (progress - warmup) / (1.0 - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}, but it is a share of all steps: give 0 to 1.")
