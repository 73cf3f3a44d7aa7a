"""Budgets by sample under which a plug-in keeps as many tokens in the mean as with fixed counts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.choosing.calibrated import Calibration, Cut, bounds, gaps
from rcp.choosing.learned_count import Counting
from rcp.choosing.view import View
from rcp.conversations import Batch, on_device
from rcp.errors import UserError
from rcp.plugin import Plugin

NO_IMAGE = "There is no image in these questions: calibrate on some with images."

LEVEL, HALVINGS = 50.0, 60

Seen = tuple[Tensor, int]
"""Of one sample the gaps (n,) fp64 of the tokens a stage saw, rising, and its fixed count."""


@torch.no_grad()
def calibrated(
    model: Any, plugin: Plugin, batches: Sequence[Batch], fewest: float, most: float
) -> Plugin:
    """``plugin`` with its weights under cuts that keep, over ``batches``, its own mean count.

    Stage after stage, since a later one sees what the cuts of those before have left. A sample
    keeps at least ``fewest`` and at most ``most`` times its fixed count. Where counts are learned
    there are no cuts, but levels of what the heads say, within the plug-in's own bounds. Raises
    ``UserError`` for a plug-in without stages, of another selection than these or of many budgets,
    for a method that does not rank by scores, and for batches without images.
    """
    _check(plugin)
    if plugin.spec.count is not None:
        return _levelled(model, plugin, batches)
    found = Calibration([0.0] * len(plugin.spec.stages), fewest, most)
    for stage, layer in enumerate(plugin.schedule.layers):
        if plugin.schedule.ratios[stage] == 0:
            continue
        trial = plugin.calibrated(found)
        seen = [one for batch in batches for one in _seen(model, trial, batch, stage, layer)]
        if not seen:
            raise UserError(NO_IMAGE)
        found.gaps[stage] = mean_gap(seen, found.at(stage))
    return plugin.calibrated(found)


def mean_gap(seen: Sequence[Seen], cut: Cut) -> float:
    """The gap at which all of ``seen`` keep, within the bounds of ``cut``, as near as can be to
    the sum of their fixed counts; midway between two tokens, where rounding turns nothing.

    No fewer than that sum where two are as near.
    """
    values = torch.cat([rising for rising, _ in seen]).unique()
    edges = torch.cat([values[:1] * 0, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    wanted = sum(count for _, count in seen)

    def kept(edge: int) -> int:
        return sum(_kept(rising, count, replace(cut, gap=edges[edge].item()))
                   for rising, count in seen)

    low, high = 0, len(edges) - 1  # what is kept rises with the gap
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) >= wanted else (middle + 1, high)
    nearer = low > 0 and wanted - kept(low - 1) < kept(low) - wanted
    return edges[low - nearer].item()


def _kept(rising: Tensor, count: int, cut: Cut) -> int:
    near = int(torch.searchsorted(rising, cut.gap, right=True))
    fewest, most = (int(bound) for bound in bounds(torch.tensor(count), cut))
    return min(max(near, fewest), most, len(rising))


def _seen(model: Any, trial: Plugin, batch: Batch, stage: int, layer: int) -> list[Seen]:
    view = _view(model, trial, batch, layer)
    if view is None:
        return []
    found = gaps(trial.pruner(layer)(view), view.alive).double().cpu()
    counts = [trial.schedule.count(stage, n) for n in view.total.tolist()]
    rows = zip(found, view.alive.cpu(), counts)
    return [(row[alive].sort().values, count) for row, alive, count in rows if count]


def _levelled(model: Any, plugin: Plugin, batches: Sequence[Batch]) -> Plugin:
    levels = [0.0] * len(plugin.spec.stages)
    for stage, layer in enumerate(plugin.schedule.layers):
        counting = plugin.levelled(levels).selection(stage)
        if not isinstance(counting, Counting):  # nothing is kept
            continue
        said, fixed = [], []
        for batch in batches:
            view = _view(model, plugin.levelled(levels), batch, layer)
            if view is None:
                continue
            counts = [plugin.schedule.count(stage, n) for n in view.total.tolist()]
            wanted = torch.tensor(counts, device=view.alive.device)
            found = counting.multiples(view, plugin.pruner(layer)(view), wanted)
            said.append(found[wanted > 0].cpu())
            fixed.append(wanted[wanted > 0].cpu())
        if not said:
            raise UserError(NO_IMAGE)
        levels = [*levels[:stage], mean_level(torch.cat(said), torch.cat(fixed), counting),
                  *levels[stage + 1:]]
    return plugin.levelled(levels)


def mean_level(said: Tensor, fixed: Tensor, counting: Counting) -> float:
    """What to take from the multiples ``said`` (n,), so that samples keep, within the bounds of
    ``counting``, as near as can be to the sum of their ``fixed`` (n,) counts."""
    low, high = -LEVEL, LEVEL  # what is kept falls with the level

    def missed(level: float) -> int:
        return int(counting.counts(said - level, fixed).sum() - fixed.sum())

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if missed(middle) > 0 else (low, middle)
    return min((low, high), key=lambda level: abs(missed(level)))


def _view(model: Any, trial: Plugin, batch: Batch, layer: int) -> View | None:
    """What the stage at ``layer`` sees of ``batch``; None where there is no image."""
    with attach(model, trial, "drop") as handle, handle.trace(views=[layer]) as trace:
        model(**on_device(batch, model.device)["inputs"])
    return trace.views.get(layer)


def _check(plugin: Plugin) -> None:
    if not plugin.spec.stages:
        raise UserError("This plug-in has no stage, so that there is nothing to calibrate.")
    if plugin.spec.selection not in ("top_k", "learned") or plugin.spec.budgets is not None:
        what = (
            "many budgets: choose one with --budget" if plugin.spec.budgets is not None
            else f"selection '{plugin.spec.selection}', whose counts are no fixed ones"
        )
        raise UserError(
            f"What is calibrated is the mean of fixed counts, and this plug-in has {what}."
        )
