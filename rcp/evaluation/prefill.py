"""Prefills measured: their time, interleaved, and the operations they run."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rcp.attaching.attach import attach
from rcp.attaching.cache_names import cache_in
from rcp.conversations import LoadedSample
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.preparation import Preparation
from rcp.plugin import Plugin, PluginSpec, stages_of

WARM_UP = 2


@torch.no_grad()
def speedups(
    preparation: Preparation,
    contestants: Sequence[Contestant],
    samples: Sequence[LoadedSample],
    rounds: int,
) -> list[float]:
    """Prefill time of the first contestant over that of each, by position.

    Image encoding is left out (where the model can take encoded images), selection by the plug-in
    is in. Contestants take turns within each round, so that a change of the machine's pace meets
    all of them; the median over rounds of the ratio within a round is returned.
    """
    model = preparation.model
    inputs = [_inputs(preparation, contestant, samples) for contestant in contestants]
    ratios: list[list[float]] = [[] for _ in contestants]
    for number in range(-WARM_UP, rounds):
        seconds = []
        for contestant, own in zip(contestants, inputs):
            with contestant.attached(model):
                seconds.append(_seconds(model, own))
        if number >= 0:
            for measured, taken in zip(ratios, seconds):
                measured.append(seconds[0] / taken)
    return [statistics.median(measured) for measured in ratios]


@torch.no_grad()
def selection_seconds(
    preparation: Preparation,
    contestant: Contestant,
    samples: Sequence[LoadedSample],
    rounds: int,
) -> float:
    """Seconds of a prefill that go into choosing tokens.

    The prefill's time less that of one that replays the same choice, in turns; median over rounds.
    """
    model, plugin = preparation.model, contestant.plugin
    assert plugin is not None
    inputs = _inputs(preparation, contestant, samples)
    with attach(model, plugin, "drop") as handle, handle.trace() as trace:
        _prefill(model, inputs)
    found = []
    for number in range(-WARM_UP, rounds):
        with attach(model, plugin, "drop"):
            choosing = _seconds(model, inputs)
        with attach(model, plugin, "drop", plan=trace.plan):
            replaying = _seconds(model, inputs)
        if number >= 0:
            found.append(choosing - replaying)
    return statistics.median(found)


@torch.no_grad()
def plugin_flops(preparation: Preparation, contestant: Contestant, sample: LoadedSample) -> int:
    """FLOPs that torch counts of the contestant's plug-in in a prefill of ``sample``.

    Those of the prefill less those of one from which the same tokens go by a recorded plan, and to
    which nothing is added. 0 without a plug-in.
    """
    plugin = contestant.plugin
    if plugin is None:
        return 0
    model, inputs = preparation.model, _inputs(preparation, contestant, [sample])
    with attach(model, plugin, "drop") as handle, handle.trace() as trace:
        with _flop_counter() as chosen:
            _prefill(model, inputs)
    assert trace.plan is not None
    bare = Plugin(
        PluginSpec(stages_of(plugin.schedule, "uniform")), plugin.hidden_size, plugin.num_layers
    )
    with attach(model, bare, "drop", plan=replace(trace.plan, merges={})), _flop_counter() as given:
        _prefill(model, inputs)
    return chosen.get_total_flops() - given.get_total_flops()


def encoder_flops(
    preparation: Preparation, contestant: Contestant, sample: LoadedSample
) -> int:
    """FLOPs of encoding the images of ``sample`` as ``contestant`` does; 0 where that is part of
    the prefill."""
    with contestant.attached(preparation.model), _flop_counter() as counter:
        preparation([sample])
    return counter.get_total_flops()


@contextmanager
def _flop_counter() -> Iterator[FlopCounterMode]:
    # the plain attention kernel: the counter does not know the fused ones of every device
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def _inputs(
    preparation: Preparation, contestant: Contestant, samples: Sequence[LoadedSample]
) -> dict[str, Any]:
    with contestant.attached(preparation.model):  # its method may watch the encoder
        return (contestant.prepare or preparation)(samples)["inputs"]


def _prefill(model: Any, inputs: dict[str, Any]) -> Any:
    return cache_in(model(**inputs, use_cache=True, logits_to_keep=1))


def _seconds(model: Any, inputs: dict[str, Any]) -> float:
    synchronise(model.device)
    start = time.perf_counter()
    _prefill(model, inputs)
    synchronise(model.device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
