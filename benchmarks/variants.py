"""Variants of one recipe: what they change of a configuration, as data."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from rcp.choosing.schedule import Schedule, schedule_for

CONFIGS = Path("configs")

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row: the recipe with ``changes``, whose keys are dotted paths into the configuration.

    ``about`` says in words what is different. ``layers`` moves the stages, ``mean_ratio`` sets
    their mean over the decoder's layers, by default the recipe's own; either gives up the recipe's
    shares for those of :func:`rcp.choosing.schedule.schedule_for`, from first to last stage falling
    by as much. A guide moves with the stages, and goes where no pruner is left to learn. ``method``
    replaces the pruner of every stage, or with ``last_only`` of the last; ``arguments`` are added
    to the pruners' own. ``taught_by`` names the row that has taught the same pruners, seed by seed:
    no guide then teaches them again.
    """

    name: str
    about: str
    seeds: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    mean_ratio: float | None = None
    method: str | None = None
    last_only: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    taught_by: str | None = None

    def of(self, recipe: Configuration) -> Configuration:
        """The recipe so changed; ``recipe`` itself stays as it is."""
        found = copy.deepcopy(recipe)
        plugin = found["model"]["plugin"]
        if self.layers is not None or self.mean_ratio is not None:
            before = [stage["layer"] for stage in plugin["stages"]]
            plugin["stages"] = self._moved(plugin["stages"], _depth(found["model"]["base"]))
            _move_guide(found, before, [stage["layer"] for stage in plugin["stages"]])
        if self.taught_by is not None or self.method is not None and not self.last_only:
            _without_guide(found)
        for stage in plugin["stages"][-1:] if self.last_only else plugin["stages"]:
            if self.method is not None:
                stage |= {"method": self.method, "arguments": {}}
            stage["arguments"] = {**stage.get("arguments", {}), **self.arguments}
        return changed(found, self.changes)

    def start(self, runs: Path, seed: int) -> list[str]:
        """Arguments of train.py for what the row in ``taught_by`` has taught with this seed."""
        if self.taught_by is None:
            return []
        return ["--model.pruners_from", str(runs / self.taught_by / f"seed{seed}" / "plugin")]

    def _moved(self, stages: list[dict[str, Any]], depth: int) -> list[dict[str, Any]]:
        own = Schedule(
            tuple(stage["layer"] for stage in stages),
            tuple(stage["ratio"] for stage in stages),
            depth,
        )
        ratio = own.mean_ratio if self.mean_ratio is None else self.mean_ratio
        layers = self.layers or own.layers
        fall = (stages[-1]["ratio"] / stages[0]["ratio"]) ** (1 / max(1, len(layers) - 1))
        schedule = schedule_for(ratio, layers, depth, fall)
        return [
            copy.deepcopy(stages[0]) | {"layer": layer, "ratio": round(share, 6)}
            for layer, share in zip(schedule.layers, schedule.ratios)
        ]


def _move_guide(configuration: Configuration, before: list[int], after: list[int]) -> None:
    """Let the guide teach the same stages, first, second and so on, as far as they are left."""
    guide = configuration["model"].get("guide")
    if guide and guide.get("pruning_layers") is not None:
        places = [before.index(layer) for layer in guide["pruning_layers"]]
        guide["pruning_layers"] = [after[place] for place in places if place < len(after)]


def _without_guide(configuration: Configuration) -> None:
    """Leave the guide and its steps out."""
    guide, trainer = configuration["model"].get("guide"), configuration["trainer"]
    if guide:
        configuration["model"]["guide"] = None
        trainer["max_steps"] = round(trainer["max_steps"] * (1 - guide["share"]))


def changed(configuration: Configuration, changes: Mapping[str, Any]) -> Configuration:
    """``configuration`` with the values at dotted paths replaced; missing parents are made."""
    found = copy.deepcopy(configuration)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = copy.deepcopy(value)
    return found


def validated_once(configuration: Configuration) -> Configuration:
    """``configuration`` with one batch of validation, at the end: it takes near half of a short
    run's time, and no row gains or loses by the choice of a checkpoint."""
    steps = configuration["trainer"]["max_steps"]
    once = {"trainer.val_check_interval": steps, "trainer.limit_val_batches": 1}
    return changed(configuration, once)


def write_configuration(configuration: Configuration, path: Path) -> Path:
    """As a file that train.py reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return path


def read_configuration(path: Path) -> Configuration:
    """A configuration file as plain values."""
    return yaml.safe_load(path.read_text())


def _depth(base: str) -> int:
    return AutoConfig.from_pretrained(base).get_text_config().num_hidden_layers
