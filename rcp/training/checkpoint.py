"""What a training checkpoint holds of the plug-in, in plain types."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcp.atomic_write import standing
from rcp.backbones import Backbone
from rcp.base_model.identity import BaseIdentity
from rcp.base_model.loading import BaseDtype
from rcp.errors import UserError
from rcp.folder.description import Description, describe, read_description
from rcp.folder.weights import checked, expected, filled
from rcp.plugin import Plugin
from rcp.quoting import quoted
from rcp.typed_values import of_type

ENTRY = "rcp"
"""Key of our entry in the checkpoint."""

WHOLE = "plugin.ckpt"
"""In the folder that DeepSpeed writes as a checkpoint: the file with the plug-in in full."""

PREFIX = "plugin."
BESIDE = "denoiser."
"""What is trained with a plug-in and no part of it begins so."""

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

ANOTHER = "Give best.ckpt or last.ckpt of a run's folder."


def keep_plugin_only(checkpoint: dict[str, Any], plugin: Plugin, training: dict[str, Any]) -> None:
    """Take the frozen weights out of ``checkpoint`` and put in what rebuilds the plug-in.

    ``training`` is what the exported folder will say of it, the ``dtype`` of the base among it.
    """
    state = checkpoint["state_dict"]
    kept = {k: v for k, v in state.items() if k.startswith((PREFIX, BESIDE))}
    checkpoint["state_dict"] = kept
    checkpoint[ENTRY] = describe(plugin) | {"training": training}


def check_resumable(checkpoint: dict[str, Any], plugin: Plugin, base: Backbone) -> None:
    """Refuse a checkpoint that was not written by a training of this plug-in on this base."""
    entry = trained(checkpoint, WHAT)
    mine, theirs = plugin.spec.to_dict(), entry.plugin.to_dict()
    different = sorted(key for key in mine if mine[key] != theirs[key])
    if different:
        raise UserError(
            f"The checkpoint belongs to another plug-in: its {' and '.join(different)} "
            f"({', '.join(quoted(theirs[key]) for key in different)}) differ from the "
            "configuration. Resume with the configuration it was trained with, which is the "
            "config.yaml of its run folder."
        )
    trained_on(entry, WHAT).check(base)
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
    plugin = filled(entry.plugin, entry.hidden_size, entry.num_layers, weights, WHAT)
    plugin.base = entry.base
    plugin.training_summary = entry.training
    return plugin


def trained(checkpoint: Any, name: str) -> Description:
    """Our entry of ``checkpoint``, which messages call ``name``; raises ``UserError`` for none."""
    name = f"{name[0].upper()}{name[1:]}"
    entry = checkpoint.get(ENTRY) if isinstance(checkpoint, dict) else None
    if not isinstance(entry, dict):
        raise UserError(f"{name} holds no plug-in of train.py. {ANOTHER}")
    found = read_description(_as_today(entry), name, ANOTHER)
    trained_on(found, name)
    precision(found, name)
    return found


def trained_on(entry: Description, name: str) -> BaseIdentity:
    """The base of a checkpoint's plug-in; raises ``UserError`` where it names none."""
    if entry.base is None:
        raise UserError(f"{name} is damaged: it does not tell the base model. {ANOTHER}")
    return entry.base


def precision(entry: Description, name: str) -> BaseDtype:
    """What the base was loaded in; raises ``UserError`` for what it cannot have been."""
    try:
        return of_type(BaseDtype, entry.training.get("dtype"), "dtype")
    except UserError as error:
        raise UserError(f"{name} is damaged: {error} {ANOTHER}") from error


def _as_today(entry: dict[str, Any]) -> dict[str, Any]:
    """``entry`` by the names of ``plugin.json``, which checkpoints have had since 2026-12."""
    if "spec" not in entry:
        return entry
    older = dict(entry)
    plugin, training = older.pop("spec"), older.pop("training_summary", None)
    if isinstance(training, dict):
        training = {"dtype": older.pop("dtype", None), **training}
    return older | {"plugin": plugin} | ({} if training is None else {"training": training})


def _weights(checkpoint: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The plug-in's tensors by their own names."""
    state = tensors_by_name(checkpoint.get("state_dict"), name)
    return {
        key.removeprefix(PREFIX): value for key, value in state.items()
        if not key.startswith(BESIDE)
    }


def check_beside(checkpoint: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose tensors beside the plug-in are not those of ``parameters``."""
    state = checkpoint.get("state_dict")
    if state is None:  # DeepSpeed loads the weights by itself
        return
    found = {key.removeprefix(BESIDE): value.shape for key, value in state.items()
             if key.startswith(BESIDE)}
    if found != {name: value.shape for name, value in parameters.items()}:
        raise UserError(
            "The checkpoint belongs to a training with another model.noise_gate, or with none "
            "where this one has one. Resume with the configuration it was trained with, which is "
            "the config.yaml of its run folder."
        )


def tensors_by_name(state: Any, name: str) -> dict[str, Tensor]:
    """``state``, part of what messages call ``name``; raises ``UserError`` for anything else."""
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in state.items()
    ):
        raise UserError(f"{name[0].upper()}{name[1:]} holds no weights by name. {ANOTHER}")
    return state


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is a tensor whose values are in memory, one beside the other."""
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta"
    )
