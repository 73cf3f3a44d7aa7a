"""Pruners that another training has taught."""

from pathlib import Path

from rcp.backbones import Backbone
from rcp.errors import UserError
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin


def take_pruners(plugin: Plugin, backbone: Backbone, folder: str) -> None:
    """Give ``plugin`` the pruners of the exported plug-in in ``folder``.

    A pruner is taken where layer, method and arguments agree, and what counts its tokens with it;
    the others keep their fresh weights, and ratios may differ. Raises ``UserError`` for a plug-in
    of another base model, for a folder that is none, and where no learned pruner agrees.
    """
    taught = load_plugin(Path(folder))
    if taught.base is not None:
        taught.base.check(backbone)
    kinds = {stage.layer: (stage.method, stage.arguments) for stage in taught.spec.stages}
    found = False
    for stage in plugin.spec.stages:
        own = plugin.pruner(stage.layer)
        if own.learned and kinds.get(stage.layer) == (stage.method, stage.arguments):
            own.load_state_dict(taught.pruner(stage.layer).state_dict())
            _take_counter(plugin, taught, str(stage.layer))
            found = True
    if not found:
        there = "; ".join(f"layer {layer}: {method} {values}"
                          for layer, (method, values) in kinds.items())
        raise UserError(
            f"model.pruners_from is '{folder}', but none of its pruners stands at the same layer "
            f"with the same method and arguments as one of model.plugin. It has {there}. Make the "
            "stages agree, or set model.pruners_from to null."
        )


def _take_counter(plugin: Plugin, taught: Plugin, layer: str) -> None:
    ours, theirs = plugin.spec.count, taught.spec.count
    if ours is not None and theirs is not None and ours.inner == theirs.inner:
        plugin.counters[layer].load_state_dict(taught.counters[layer].state_dict())
