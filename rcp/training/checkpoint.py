"""What a training checkpoint holds of the plug-in, in plain types."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcp.atomic_write import standing
from rcp.base_model.identity import BaseIdentity
from rcp.base_model.loading import BaseDtype
from rcp.errors import UserError
from rcp.folder.weights import checked, expected, filled
from rcp.plugin import Plugin, PluginSpec
from rcp.typed_values import from_plain

ENTRY = "rcp"
"""Key of our entry in the checkpoint."""

WHOLE = "plugin.ckpt"
"""In the folder that DeepSpeed writes as a checkpoint: the file with the plug-in in full."""

FORMAT_VERSION = 1
PREFIX = "plugin."
STANDING = {
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
"""What Lightning writes for a training to go on, and what it is."""

WHAT = "the checkpoint"
"""What a message calls one whose path is not known."""


@dataclass
class Trained:
    """What a checkpoint says of its plug-in, beside the weights."""

    format_version: int
    spec: PluginSpec
    hidden_size: int
    num_layers: int
    base: BaseIdentity
    dtype: BaseDtype
    training_summary: dict[str, Any]


def keep_plugin_only(
    checkpoint: dict[str, Any], plugin: Plugin, dtype: BaseDtype, training_summary: dict[str, Any]
) -> None:
    """Take the frozen weights out of ``checkpoint`` and put in what rebuilds the plug-in."""
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {k: v for k, v in state.items() if k.startswith(PREFIX)}
    checkpoint[ENTRY] = {
        "format_version": FORMAT_VERSION,
        "spec": plugin.spec.to_dict(),
        "hidden_size": plugin.hidden_size,
        "num_layers": plugin.num_layers,
        "base": plugin.base.to_dict() if plugin.base is not None else None,
        "dtype": dtype,
        "training_summary": training_summary,
    }


def check_resumable(checkpoint: dict[str, Any], plugin: Plugin) -> None:
    """Refuse a checkpoint that was not written by a training of this plug-in on this base."""
    entry = trained(checkpoint, WHAT)
    mine, theirs = plugin.spec.to_dict(), checkpoint[ENTRY]["spec"]
    different = sorted(key for key in mine if mine[key] != theirs.get(key))
    if different:
        raise UserError(
            f"The checkpoint belongs to another plug-in: its {' and '.join(different)} "
            f"({', '.join(str(theirs.get(key)) for key in different)}) differ from the "
            "configuration. Resume with the configuration it was trained with, which is the "
            "config.yaml of its run folder."
        )
    if plugin.base is not None:
        entry.base.check_same(plugin.base)
    if "state_dict" in checkpoint:  # DeepSpeed loads the weights by itself
        # not those of ``plugin`` itself, which may be sharded
        wanted = expected(plugin.spec, plugin.hidden_size, plugin.num_layers)
        checked(_weights(checkpoint, WHAT), wanted, WHAT)


def check_goes_on(checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint that holds the plug-in alone, not where its training stood."""
    for name, kind in STANDING.items():
        if not isinstance(checkpoint.get(name), kind):
            raise UserError(
                f"The checkpoint holds no {name}, so that no training can go on from it; it can "
                "be exported. Resume from last.ckpt of a run's folder; of a DeepSpeed run that is "
                "a folder itself."
            )


def give_dimensions(checkpoint: dict[str, Any]) -> None:
    """Let lone numbers, as RCP's bias was saved before 2026-11, be tensors of one value."""
    weights = checkpoint.get("state_dict", {})
    weights |= {name: value.view(1) for name, value in weights.items() if value.dim() == 0}
    for optimizer in checkpoint.get("optimizer_states", []):
        for state in optimizer["state"].values():
            moments = {name: state[name] for name in ("exp_avg", "exp_avg_sq")}
            state |= {name: value.view(1) for name, value in moments.items() if value.dim() == 0}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``, read without running any code it may carry.

    Of a folder, as sharded training writes it, the plug-in is read and the shards are not. Raises
    ``UserError`` for what is not there, damaged, or no checkpoint of ours.
    """
    path = standing(path)
    if os.path.isdir(path):
        path = path / WHOLE
    if not os.path.isfile(path):
        raise UserError(
            f"There is no checkpoint '{path}'. Give one that train.py wrote: best.ckpt or last.ckpt"
            " in the folder of a run."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UserError(
            f"The checkpoint '{path}' cannot be read ({type(error).__name__}: it is damaged, cut "
            "short or no checkpoint). Give another one of the run's folder, or train again."
        ) from error
    trained(checkpoint, f"'{path}'")
    _weights(checkpoint, f"'{path}'")
    return checkpoint


def rebuild_plugin(checkpoint: dict[str, Any]) -> Plugin:
    """The trained plug-in of a checkpoint, in evaluation mode."""
    entry, weights = trained(checkpoint, WHAT), _weights(checkpoint, WHAT)
    plugin = filled(entry.spec, entry.hidden_size, entry.num_layers, weights, WHAT)
    plugin.base = entry.base
    plugin.training_summary = entry.training_summary
    return plugin


def trained(checkpoint: Any, name: str) -> Trained:
    """Our entry of ``checkpoint``, which messages call ``name``; raises ``UserError`` for none."""
    entry = checkpoint.get(ENTRY) if isinstance(checkpoint, dict) else None
    version = entry.get("format_version") if isinstance(entry, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        found = "no plug-in" if version is None else f"format version {version!r}"
        raise UserError(
            f"{name[0].upper()}{name[1:]} holds {found}, but a checkpoint of train.py with format "
            f"version {FORMAT_VERSION} is needed. Give best.ckpt or last.ckpt of a run's folder."
        )
    try:
        return from_plain(Trained, entry)
    except UserError as error:
        raise UserError(
            f"{name[0].upper()}{name[1:]} is damaged: {error} Or give another checkpoint of the "
            "run's folder."
        ) from error


def _weights(checkpoint: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The plug-in's tensors by their own names."""
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in state.items()
    ):
        raise UserError(
            f"{name[0].upper()}{name[1:]} holds no weights by name. Give best.ckpt or last.ckpt of "
            "a run's folder."
        )
    return {key.removeprefix(PREFIX): value for key, value in state.items()}


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is a tensor whose values are in memory, one beside the other."""
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta"
    )
