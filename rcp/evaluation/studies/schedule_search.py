"""How much each stage should keep, at one mean: a search by what pruning does to the last state.

The objective is VFlowOpt's (arXiv 2508.05211 [code]): the mean cosine between the full and the
pruned model's last hidden state at the last token of the prompt. They search the ratios together
with the constants of a score of their own, by a Gaussian process. Here it is any method, whose
arguments can be searched as well, the sampler is TPE, and of the ratios it is searched how far the
shares fall from stage to stage, so that every trial spends exactly the budget. What was found on
some samples must hold on others, or the start stays. [ours]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from rcp.evaluation.contestants import method_of, untrained
from rcp.plugin import Plugin, PluginSpec

STEEPEST = 0.01
"""The least that a stage keeps of what the one before it kept."""


@dataclass(frozen=True)
class Range:
    """Where an argument is sought: ``low`` to ``high``, both included, of the type of ``usual``.

    ``usual`` is the argument's default, which need not lie between them.
    """

    low: float
    high: float
    usual: float

    @property
    def holds_usual(self) -> bool:
        return self.low <= self.usual <= self.high


@dataclass(frozen=True)
class Trial:
    """A schedule, and what the objective gave it; ``arguments`` are those that were searched."""

    schedule: Schedule
    value: float
    arguments: dict[str, Any] = field(default_factory=dict)


def search(
    objective: Callable[..., float],
    start: Schedule,
    trials: int,
    seed: int = 0,
    ranges: Mapping[str, Range] = {},
) -> list[Trial]:
    """``trials`` schedules with the layers and the mean of ``start``, which is the first of them.

    Each next one is what optuna's TPE sampler, seeded by ``seed``, proposes to maximise
    ``objective``, together with a value for each argument in ``ranges``: both are what the
    objective is called with, the arguments by name. The first is called with none, which is as
    usual. Raises ``UserError`` where there is nothing to search: without ranges, if ``start`` has
    fewer than two stages that keep any.
    """
    import optuna

    falls = _falls(start)
    if not falls and not ranges:
        raise UserError(
            f"Stages at the layers {list(start.layers)} leave nothing to search: one stage that "
            f"keeps any has one ratio at a given budget. Name two layers or more, or an argument."
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
    )
    searched: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(STEEPEST, 1.0) for name in falls
    }
    for name, given in ranges.items():
        whole = isinstance(given.usual, int)
        searched[name] = (
            optuna.distributions.IntDistribution(int(given.low), int(given.high)) if whole
            else optuna.distributions.FloatDistribution(given.low, given.high)
        )
    tried = [Trial(start, objective(start))]
    if all(given.holds_usual for given in ranges.values()):  # else no place of the search's own
        usual = {name: given.usual for name, given in ranges.items()}
        study.add_trial(optuna.trial.create_trial(
            params=falls | usual, distributions=searched, value=tried[0].value
        ))
    for _ in range(trials - 1):
        proposed = study.ask(searched)
        schedule = fallen(start, [proposed.params[name] for name in falls]) if falls else start
        arguments = {name: proposed.params[name] for name in ranges}
        tried.append(Trial(schedule, objective(schedule, **arguments), arguments))
        study.tell(proposed, tried[-1].value)
    return tried


def confirmed(start: Trial, best: Trial, each: Callable[..., Tensor]) -> Trial:
    """``best`` if it beats ``start`` on samples that it was not chosen by, else ``start``.

    ``each`` gives what both are worth on each of these samples, (S,), as :func:`cosines` does; it
    must be more on average by more than the standard error of the paired differences.
    """
    gains = each(best.schedule, **best.arguments) - each(start.schedule, **start.arguments)
    error = gains.std(correction=0) / math.sqrt(len(gains))
    return best if bool(gains.mean() > error) else start


def fallen(start: Schedule, falls: Sequence[float]) -> Schedule:
    """The layers and the mean of ``start``, each stage keeping its fall of what the one before did.

    ``falls``: a number in (0, 1] for each stage that keeps any, but the first. Where a stage can
    hold no more, those behind it keep the rest, and more than their fall.
    """
    kept = sum(ratio > 0 for ratio in start.ratios)
    shape = list(accumulate([1.0, *falls], mul))
    layers, depth = start.layers[:kept], start.num_layers
    return shaped(shape, start.mean_ratio, layers, depth, start.wiped_from)


def agreement(model: Any, plugin: Plugin, batches: Sequence[Batch]) -> Callable[..., float]:
    """The mean of :func:`cosines` over all samples."""
    each = cosines(model, plugin, batches)

    def mean(schedule: Schedule, **arguments: Any) -> float:
        return each(schedule, **arguments).mean().item()

    return mean


def cosines(model: Any, plugin: Plugin, batches: Sequence[Batch]) -> Callable[..., Tensor]:
    """What says of a schedule how little ``plugin`` under it moves each sample's last hidden state.

    That is the cosine, (S,) fp32, between the last decoder layer's output at the last token of the
    prompt with all visual tokens and with those that are kept. ``batches`` hold prompts only.
    Arguments, by name, are its method's in place of the usual ones. The full model runs once, here.
    Each call raises ``UserError`` where a state is not finite.
    """
    full = _last_states(model, Plugin.for_model(PluginSpec(stages=[]), model), "record", batches)

    def cosine(schedule: Schedule, **arguments: Any) -> Tensor:
        pruned = _last_states(model, under(plugin, schedule, arguments, model), "soft", batches)
        values = functional.cosine_similarity(full, pruned)
        if not values.isfinite().all():
            raise UserError(
                "The last hidden state of the model is not finite, so that nothing can be compared "
                "with it. Run it in another precision: --dtype float32 or bfloat16."
            )
        return values

    return cosine


def under(
    plugin: Plugin, schedule: Schedule, arguments: Mapping[str, Any], model: Any
) -> Plugin:
    """``plugin``, of one method that needs no training, with other ratios and ``arguments``."""
    if not arguments:
        return plugin.under(schedule)
    return untrained(method_of(plugin), schedule, model, **arguments)


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
