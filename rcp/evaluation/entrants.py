"""Whom a command line asks to evaluate: exported folders, or a pruner without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rcp.backbones import backbone_for
from rcp.base_model.loading import load_trained_on
from rcp.choosing.schedule import mean_ratio_of, schedule_for
from rcp.errors import UserError
from rcp.evaluation.contestants import CONTROLS, FULL, Contestant, method_of, untrained
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin
from rcp.pruners import PRUNERS


def exported(folders: Sequence[Path], name: str | None = None) -> list[Contestant]:
    """Plug-ins of one method, trained with different seeds; ``name`` replaces the method's.

    Raises ``UserError`` for a folder that holds none, and for different schedules.
    """
    plugins = [load_plugin(folder) for folder in folders]
    for folder, plugin in zip(folders, plugins):
        if plugin.schedule != plugins[0].schedule:
            raise UserError(
                f"'{folder}' keeps {plugin.schedule.ratios} from layers {plugin.schedule.layers}, "
                f"'{folders[0]}' keeps {plugins[0].schedule.ratios} from layers "
                f"{plugins[0].schedule.layers}. Only seeds of one method at one schedule make a "
                "common mean: evaluate the others by themselves."
            )
    return [Contestant(name or method_of(plugin), plugin) for plugin in plugins]


def compared(arguments: Sequence[str]) -> list[Contestant]:
    """Plug-ins given as NAME=FOLDER (``UserError`` if not); equal names are seeds of one method."""
    folders: dict[str, list[Path]] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not (name and separator and folder):
            raise UserError(
                f"--compare {argument} names no plug-in. Write NAME=FOLDER, as in "
                "random_repair=runs/random_repair/plugin."
            )
        folders.setdefault(name, []).append(Path(folder))
    return [contestant for name, paths in folders.items() for contestant in exported(paths, name)]


def load_base_of(
    plugin: Plugin | None, given: str | None, dtype: str, device: str | None
) -> tuple[Any, Any]:
    """The frozen model and its processor: the one ``given``, else the one that ``plugin`` names.

    ``dtype`` and ``device`` as in :func:`rcp.base_model.loading.load_base`. Raises ``UserError``
    where neither says it, or it cannot be loaded.
    """
    named = plugin.base.name_or_path if plugin is not None and plugin.base is not None else ""
    if not (given or named):
        raise UserError(
            "It is not known which model to evaluate: neither --base nor a plug-in that names "
            "its base is given. Add --base with the folder or hub id of a vision-language model."
        )
    return load_trained_on(named, given, dtype, device)


def refuse_shared_names(
    entrants: Sequence[Contestant], others: Sequence[Contestant], controls: bool
) -> None:
    """Raise ``UserError`` for one of ``others`` that would be taken for a seed of another row."""
    taken = {FULL, *(entrant.method for entrant in entrants)}
    if controls:
        taken |= {*CONTROLS, *(f"{entrant.method}_blind" for entrant in entrants)}
    for other in others:
        if other.method in taken:
            raise UserError(
                f"--compare {other.method}=...: there is a row of that name already, and both "
                "would be one mean. Give another name."
            )


def training_free(
    name: str,
    budget: float,
    layers: Sequence[int] | None,
    model: nn.Module,
    wiped_from: int | None = None,
) -> list[Contestant]:
    """The pruner ``name`` at ``layers``, ``budget`` tokens on average over the decoder's layers.

    With ``wiped_from`` none are left from that layer on, and more are before.

    A budget below 1 is a share of the visual tokens. Without ``layers`` the pruner's paper says
    where, at the same depth of this model; where it says nothing, before the decoder. Raises
    ``UserError`` for a pruner with weights to train, and for an impossible budget.
    """
    if any(True for _ in PRUNERS.get(name)(1).parameters()):
        free = [known for known in PRUNERS.names() if not PRUNERS.get(known).learned]
        raise UserError(
            f"The pruner '{name}' has weights to train. Give a folder written by export.py with "
            f"--plugin, or one that needs no training: {', '.join(free)}."
        )
    backbone = backbone_for(model)
    depth = len(backbone.layers)
    if layers is None:
        published = PRUNERS.get(name).published
        layers = published[0].layers_in(depth) if published else (0,)
    mean_ratio = mean_ratio_of(budget, backbone.visual_tokens)
    schedule = schedule_for(mean_ratio, tuple(layers), depth, wiped_from=wiped_from)
    return [Contestant(name, untrained(name, schedule, model))]
