"""AdamW on the plug-in, with a learning rate for each part and each phase of a training."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from rcp.plugin import Plugin
from rcp.training.curves import learning_rate_factor
from rcp.training.options import OptimizerOptions
from rcp.training.phases import (
    GuideOptions,
    Moment,
    PolicyOptions,
    RetentionOptions,
    moment,
)

Factor = Callable[[int], float]


def optimizer_of(
    plugin: Plugin,
    options: OptimizerOptions,
    guide: GuideOptions | None,
    retention: RetentionOptions | None,
    steps: int,
    policy: PolicyOptions | None = None,
    beside: Iterable[nn.Parameter] = (),
) -> dict[str, Any]:
    """What Lightning's ``configure_optimizers`` returns, for a run of ``steps`` steps.

    ``beside``: what is trained with the plug-in and no part of it.
    """
    taught = plugin.schedule.layers if guide is None else guide.pruning(plugin.schedule)
    parts = parts_of(plugin, taught)
    if others := [*parts.get("others", []), *beside]:
        parts["others"] = others
    shares = {"taught": (1.0, 1.0, options.pruners), "untaught": (0.0, 1.0, options.pruners),
              "others": (0.0, 0.0, 1.0)}
    optimizer = torch.optim.AdamW(
        [{"params": parameters} for parameters in parts.values()],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    factors = []
    for part in parts:
        guided, drawn, own = shares[part]
        factors.append(rate_factor(options, guide, retention, steps, guided, own, policy, drawn))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parts_of(plugin: Plugin, taught: Sequence[int]) -> dict[str, list[nn.Parameter]]:
    """The parameters by what they do under a guide: pruners at the layers ``taught``, which learn
    from it, other pruners and what counts tokens, and the rest of the plug-in, which stand still in
    its phase. None is empty."""
    parts: dict[str, list[nn.Parameter]] = {"taught": [], "untaught": [], "others": []}
    for name, parameter in plugin.named_parameters():
        room, layer, *_ = name.split(".")
        kind = "taught" if room == "pruners" and int(layer) in taught else "untaught"
        kind = "untaught" if room == "counters" else kind
        parts[kind if room in ("pruners", "counters") else "others"].append(parameter)
    return {part: parameters for part, parameters in parts.items() if parameters}


def rate_factor(
    options: OptimizerOptions,
    guide: GuideOptions | None,
    retention: RetentionOptions | None,
    steps: int,
    guided: float,
    own: float,
    policy: PolicyOptions | None = None,
    drawn: float = 0.0,
) -> Factor:
    """Factor on the learning rate at each step.

    Each phase warms up and decays by itself; the guided one has a rate of its own, which what an
    online guide teaches has beside the rates of the others, and so has that of a policy.
    ``guided`` is the factor of a part of the plug-in there, ``drawn`` its factor under the policy,
    ``own`` its factor end to end. What stands still has a rate of zero:
    DeepSpeed moves all parameters alike, and weight decay would shrink it.
    """

    def factor(step: int) -> float:
        if guide is not None and guide.online and guided and guide.teaches(step / steps):
            now = Moment("guided", step / steps / guide.share)
        else:
            now = moment(step / steps, guide, retention, policy)
        found = learning_rate_factor(now.progress, options.warmup, options.floor)
        if now.phase == "guided":
            assert guide is not None
            return guided * found * guide.learning_rate / options.learning_rate
        if now.phase == "policy":
            assert policy is not None
            return drawn * found * policy.learning_rate / options.learning_rate
        return found * own

    return factor
