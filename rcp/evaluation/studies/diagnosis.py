"""What dropping does to the answer rows of every layer, and what the repair gives back."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import predicting
from rcp.conversations import Batch
from rcp.evaluation.metrics.shift import DistributionShift, GapWithLoss, SinkSurvival
from rcp.objectives.labels import sinks
from rcp.plugin import Plugin


@torch.no_grad()
def diagnose(
    model: Any, plugin: Plugin, batches: Iterable[Batch], sink_multiple: float = 5.0
) -> dict[str, Any]:
    """Per layer and per stage, in plain values; ``batches`` carry answers.

    ``layers``: gaps of full and pruned answer rows ``before`` repair and ``after`` it (the same
    gaps where there is no adapter), and the correlation of a sample's own distance with its
    answer being lost, after repair, all answer tokens judged at once under the right prefix.
    ``stages``: shares of sinks, which are visual tokens that receive more than ``sink_multiple``
    times the mean of the question's attention in the full model at that layer. [ours]
    """
    layers, stages = range(plugin.num_layers), plugin.schedule.layers
    bare = without_repair(plugin)
    before, after = (DistributionShift(layers, plugin.hidden_size) for _ in range(2))
    lost, sunk = GapWithLoss(len(layers)), SinkSurvival(len(stages))
    for metric in (before, after, lost, sunk):
        metric.to(model.device)
    for batch in batches:
        full, full_right = _run(model, plugin, "record", batch)
        unrepaired, _ = _run(model, bare, "soft", batch)
        repaired, right = _run(model, plugin, "soft", batch)
        before.update(full.answer_states, unrepaired.answer_states)
        after.update(full.answer_states, repaired.answer_states)
        counts = predicting(batch["labels"]).sum(1)
        lost.update(_distances(full, repaired, counts), full_right.int() - right.int())
        exists = repaired.visual_valid
        assert exists is not None
        for stage, kept in enumerate(repaired.kept):
            attention = full.question_attention[stages[stage]]
            sink = sinks(attention, exists, sink_multiple)
            sunk.update(stage, kept.bool() & exists, sink)
    gaps = {"before": before.compute(), "after": after.compute()}
    correlation = lost.compute().reshape(-1)
    return {
        "layers": [
            {
                "layer": layer,
                **{when: _at(values, layer) for when, values in gaps.items()},
                "correlation_with_loss": round(correlation[layer].item(), 4),
            }
            for layer in layers
        ],
        "stages": [
            {"layer": layer, **_at(sunk.compute(), stage)} for stage, layer in enumerate(stages)
        ],
        "samples": int(lost.n_total[0].item()),
        "sink_multiple": sink_multiple,
    }


def without_repair(plugin: Plugin) -> Plugin:
    """A copy that drops the same tokens and repairs nothing."""
    bare = copy.deepcopy(plugin)
    bare.repair = None
    bare.spec = replace(bare.spec, repair=None)
    return bare


def _run(model: Any, plugin: Plugin, mode: str, batch: Batch) -> tuple[Trace, Tensor]:
    """The trace with the answer rows of all layers, and which samples are answered right."""
    attention = plugin.schedule.layers if mode == "record" else ()
    with attach(model, plugin, mode) as handle:
        with handle.trace(attention=attention, answers=range(plugin.num_layers)) as trace:
            logits = model(**batch["inputs"], labels=batch["labels"], use_cache=False).logits
    wrong = logits.argmax(-1) != batch["labels"].roll(-1, dims=1)
    return trace, ~(wrong & predicting(batch["labels"])).any(1)


def _distances(full: Trace, pruned: Trace, counts: Tensor) -> Tensor:
    """Mean squared distance of each sample's answer rows, (B, L)."""
    found = []
    for layer in full.answer_layers:
        gap = (pruned.answer_states[layer] - full.answer_states[layer]).float().square().mean(1)
        found.append(torch.stack([rows.mean() for rows in gap.split(counts.tolist())]))
    return torch.stack(found, dim=1)


def _at(values: dict[str, Tensor], index: int) -> dict[str, float]:
    # torchmetrics takes the one dimension off results of one element
    return {name: round(value.reshape(-1)[index].item(), 6) for name, value in values.items()}
