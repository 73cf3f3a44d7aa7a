"""How much each stage should keep, at one mean: a search by what pruning does to the last state.

The objective is VFlowOpt's (arXiv 2508.05211 [code]): the mean cosine between the full and the
pruned model's last hidden state at the last token of the prompt. They search the ratios together
with the constants of a score of their own, by a Gaussian process. Here the score is any method's as
it is, the sampler is TPE, and what is searched is how far the shares fall from stage to stage, so
that every trial spends exactly the budget. [ours]
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rcp.attaching.attach import attach
from rcp.choosing.schedule import Schedule, shaped
from rcp.conversations import Batch, on_device
from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec

STEEPEST = 0.01
"""The least that a stage keeps of what the one before it kept."""


@dataclass(frozen=True)
class Trial:
    """A schedule, and what the objective gave it."""

    schedule: Schedule
    value: float


def search(
    objective: Callable[[Schedule], float], start: Schedule, trials: int, seed: int = 0
) -> list[Trial]:
    """``trials`` schedules with the layers and the mean of ``start``, which is the first of them.

    Each next one is what optuna's TPE sampler, seeded by ``seed``, proposes to maximise
    ``objective``. Raises ``UserError`` where ``start`` has fewer than two stages that keep any.
    """
    import optuna

    falls = _falls(start)
    if not falls:
        raise UserError(
            f"Stages at the layers {list(start.layers)} leave nothing to search: one stage that "
            f"keeps any has one ratio at a given budget. Name two layers or more."
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
    )
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(STEEPEST, 1.0) for name in falls
    }
    tried = [Trial(start, objective(start))]
    study.add_trial(optuna.trial.create_trial(
        params=falls, distributions=ranges, value=tried[0].value
    ))
    for _ in range(trials - 1):
        proposed = study.ask(ranges)
        schedule = fallen(start, [proposed.params[name] for name in falls])
        tried.append(Trial(schedule, objective(schedule)))
        study.tell(proposed, tried[-1].value)
    return tried


def fallen(start: Schedule, falls: Sequence[float]) -> Schedule:
    """The layers and the mean of ``start``, each stage keeping its fall of what the one before did.

    ``falls``: a number in (0, 1] for each stage that keeps any, but the first. Where a stage can
    hold no more, those behind it keep the rest, and more than their fall.
    """
    kept = sum(ratio > 0 for ratio in start.ratios)
    shape = list(accumulate([1.0, *falls], mul))
    layers, depth = start.layers[:kept], start.num_layers
    return shaped(shape, start.mean_ratio, layers, depth, start.wiped_from)


def agreement(
    model: Any, plugin: Plugin, batches: Sequence[Batch]
) -> Callable[[Schedule], float]:
    """What says of a schedule how little ``plugin`` under it moves the last hidden state.

    That is the mean cosine over all samples, in fp32, between the last decoder layer's output at
    the last token of the prompt with all visual tokens and with those that are kept. ``batches``
    hold prompts only. The full model runs once, here. Each call raises ``UserError`` where a state
    is not finite.
    """
    full = _last_states(model, Plugin.for_model(PluginSpec(stages=[]), model), "record", batches)

    def cosine(schedule: Schedule) -> float:
        pruned = _last_states(model, plugin.under(schedule), "soft", batches)
        value = functional.cosine_similarity(full, pruned).mean().item()
        if not math.isfinite(value):
            raise UserError(
                "The last hidden state of the model is not finite, so that nothing can be compared "
                "with it. Run it in another precision: --dtype float32 or bfloat16."
            )
        return value

    return cosine


@torch.no_grad()
def _last_states(model: Any, plugin: Plugin, mode: str, batches: Sequence[Batch]) -> Tensor:
    """The last layer's output at the last token of each prompt: (S, D) fp32."""
    last = plugin.num_layers - 1
    states = []
    with attach(model, plugin, mode) as handle, handle.trace(answers=[last]) as trace:
        for batch in batches:
            model(**on_device(batch, model.device)["inputs"])
            states.append(trace.answer_states[last].float())
    return torch.cat(states)


def _falls(schedule: Schedule) -> dict[str, float]:
    """What each stage keeps of the one before it, by name; those that keep nothing have none."""
    kept = [ratio for ratio in schedule.ratios if ratio > 0]
    return {f"fall {n}": now / before for n, (before, now) in enumerate(pairwise(kept), start=1)}
