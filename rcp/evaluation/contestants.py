"""Who takes part: a plug-in, a control, or the model as it is."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from rcp.attaching.attach import attach
from rcp.choosing.schedule import Schedule
from rcp.conversations import Batch, LoadedSample
from rcp.plugin import Plugin, PluginSpec, stages_of

FULL = "full"
BLANK_IMAGE = "blank_image"
RANDOM = ("random", "random_input")
CONTROLS = (BLANK_IMAGE, *RANDOM, "uniform", "question_attention", "uniform_input",
            "downsampled_input")
"""What the controls' rows are called, beside the plug-in with its question zeroed; ``RANDOM`` are
those that draw, at the entrants' schedule and at their mean number of tokens."""

Prepare = Callable[[Sequence[LoadedSample]], Batch]


@dataclass(frozen=True)
class Contestant:
    """One way to answer the questions; contestants of one ``method`` are its seeds.

    ``plugin``: attached in drop mode, None for the model as it is. ``prepare``: makes its own
    batches, encoded images included, None for the ones all others share.
    """

    method: str
    plugin: Plugin | None = None
    prepare: Prepare | None = None

    def at_budget(self, mean_ratio: float) -> "Contestant":
        """With its plug-in at another of the budgets it was trained for."""
        assert self.plugin is not None
        return replace(self, plugin=self.plugin.at_budget(mean_ratio))

    @property
    def encodes(self) -> bool:
        """Whether its plug-in changes how images are encoded, so that it can share none."""
        return self.plugin is not None and self.plugin.spec.tower is not None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """``model`` as this contestant uses it."""
        if self.plugin is None:
            yield
            return
        with attach(model, self.plugin, "drop"):
            yield


def method_of(plugin: Plugin) -> str:
    """The name a plug-in goes by: its first stage's pruner, or where it drops without one."""
    alone = "keep_all" if plugin.spec.tower is None else "tower"
    return next((stage.method for stage in plugin.spec.stages), alone)


def schedule_controls(
    plugin: Plugin, schedule: Schedule, model: nn.Module, seeds: int
) -> list[Contestant]:
    """Controls that keep as many tokens as ``plugin``, layer by layer.

    Random tokens (``seeds`` draws), the top-k of the model's own question attention, a uniform
    grid, and the plug-in itself with the question zeroed, where its pruner can be blinded.
    """
    controls = [
        Contestant("random", untrained("random", schedule, model, seed=seed))
        for seed in range(seeds)
    ]
    controls += [
        Contestant(method, untrained(method, schedule, model))
        for method in ("uniform", "question_attention")
    ]
    return [control for control in controls if control.method != method_of(plugin)]


def blinded(contestant: Contestant) -> Contestant | None:
    """The same plug-in, weights and all, with the question zeroed; None if it cannot be."""
    plugin = contestant.plugin
    assert plugin is not None
    spec = copy.deepcopy(plugin.spec)
    choosing = [stage for stage in spec.stages if stage.ratio]  # others drop all, unseen
    if not all(plugin.pruner(stage.layer).can_be_blind for stage in choosing):
        return None
    for stage in choosing:
        stage.arguments["blind"] = True
    blind = Plugin(spec, plugin.hidden_size, plugin.num_layers)
    blind.load_state_dict(plugin.state_dict())
    blind.base = plugin.base
    return replace(contestant, method=f"{contestant.method}_blind", plugin=blind.eval())


def input_controls(ratio: float, model: nn.Module, num_layers: int, seeds: int) -> list[Contestant]:
    """Controls that spend the mean ``ratio`` before the decoder: all layers see the same tokens."""
    schedule = Schedule((0,), (ratio,), num_layers)
    controls = [
        Contestant("random_input", untrained("random", schedule, model, seed=seed))
        for seed in range(seeds)
    ]
    return [
        *controls,
        Contestant("uniform_input", untrained("uniform", schedule, model)),
    ]


def untrained(method: str, schedule: Schedule, model: nn.Module, **arguments: float) -> Plugin:
    """A plug-in of one ``method``, which needs no training, at every stage of ``schedule``."""
    spec = PluginSpec(stages_of(schedule, method, **arguments))
    return Plugin.for_model(spec, model).eval()
