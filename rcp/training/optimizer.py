"""AdamW on the plug-in, with a learning rate for each part and each stage of a training."""

from collections.abc import Callable
from typing import Any

import torch

from rcp.plugin import Plugin
from rcp.training.options import OptimizerOptions
from rcp.training.schedules import learning_rate_factor
from rcp.training.stages import GuideOptions, RetentionOptions, moment

Factor = Callable[[int], float]


def optimizer_of(
    plugin: Plugin,
    options: OptimizerOptions,
    guide: GuideOptions | None,
    retention: RetentionOptions | None,
    steps: int,
) -> dict[str, Any]:
    """What Lightning's ``configure_optimizers`` returns, for a run of ``steps`` steps."""
    named = list(plugin.named_parameters())
    pruners = [parameter for name, parameter in named if name.startswith("pruners.")]
    others = [parameter for name, parameter in named if not name.startswith("pruners.")]
    parts = [(part, own) for part, own in ((pruners, options.pruners), (others, 1.0)) if part]
    optimizer = torch.optim.AdamW(
        [{"params": part} for part, _ in parts],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    factors = [rate_factor(options, guide, retention, steps, own) for _, own in parts]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_factor(
    options: OptimizerOptions,
    guide: GuideOptions | None,
    retention: RetentionOptions | None,
    steps: int,
    own: float,
) -> Factor:
    """Factor on the learning rate at each step.

    Each stage warms up and decays by itself; the guided one has a rate of its own, ``own`` is the
    factor of a part of the plug-in end to end.
    """

    def factor(step: int) -> float:
        now = moment(step / steps, guide, retention)
        found = learning_rate_factor(now.progress, options.warmup, options.floor)
        if now.stage == "guided":
            assert guide is not None
            return found * guide.learning_rate / options.learning_rate
        return found * own

    return factor
