"""Soft retention: the terms that bring it to the budget and to a decision."""

import torch
from torch import Tensor

from rcp.attaching.trace import Trace
from rcp.objectives import losses
from rcp.plugin import Plugin
from rcp.training.phases import RetentionOptions


def retention_weights(options: RetentionOptions) -> dict[str, float]:
    """The terms of :func:`retention_terms` with their weights."""
    return {"retention": options.budget, "indecision": options.indecision}


def retention_terms(
    plugin: Plugin, student: Trace, reduce: losses.Reduce | None
) -> dict[str, Tensor]:
    """Means over the plug-in's stages, each term 0-d; zero in a batch without images."""
    valid = student.visual_valid
    assert valid is not None
    stages = list(zip(student.kept, plugin.schedule.ratios))
    if not stages:
        nothing = torch.zeros((), device=valid.device)
        return {"retention": nothing, "indecision": nothing}
    budget = [losses.retention_loss(kept, valid, ratio, reduce=reduce) for kept, ratio in stages]
    undecided = [losses.indecision_loss(kept, valid, reduce=reduce) for kept, _ in stages]
    return {
        "retention": torch.stack(budget).mean(),
        "indecision": torch.stack(undecided).mean(),
    }
