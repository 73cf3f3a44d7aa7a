"""What a training checkpoint holds of the plug-in, in plain types."""

from pathlib import Path
from typing import Any

import torch

from rcp.base_model import BaseDtype
from rcp.errors import UserError
from rcp.identity import BaseIdentity
from rcp.plain import from_plain
from rcp.plugin import Plugin, PluginSpec

ENTRY = "rcp"
"""Key of our entry in the checkpoint."""

WHOLE = "plugin.ckpt"
"""In the folder that DeepSpeed writes as a checkpoint: the file with the plug-in in full."""

FORMAT_VERSION = 1
PREFIX = "plugin."


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
    """Refuse a checkpoint that was not written by a training of this plug-in."""
    entry = _entry(checkpoint, "the given checkpoint")
    mine, theirs = plugin.spec.to_dict(), entry["spec"]
    different = sorted(key for key in mine if mine[key] != theirs.get(key))
    if different:
        raise UserError(
            f"The checkpoint belongs to another plug-in: its {' and '.join(different)} "
            f"({', '.join(str(theirs.get(key)) for key in different)}) differ from the "
            "configuration. Resume with the configuration it was trained with, which is the "
            "config.yaml of its run folder."
        )
    missing = {PREFIX + name for name in plugin.state_dict()} - set(checkpoint["state_dict"])
    if missing:
        raise UserError(
            f"The checkpoint lacks {len(missing)} of the plug-in's tensors, first "
            f"'{sorted(missing)[0]}'. Resume from another one."
        )


def predecessor(path: Path) -> Path:
    """Where the folder ``path`` lies while another one takes its place."""
    return path.with_name(f".{path.name}-before")


def standing(path: Path) -> Path:
    """``path``, or its predecessor if a run was killed while that was being replaced."""
    before = predecessor(path)
    return before if before.exists() and not path.exists() else path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``, read without running any code it may carry.

    Of a folder, as sharded training writes it, the plug-in is read and the shards are not.
    """
    path = standing(path)
    if path.is_dir():
        path = path / WHOLE
    if not path.is_file():
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
    _entry(checkpoint, f"'{path}'")
    return checkpoint


def rebuild_plugin(checkpoint: dict[str, Any]) -> Plugin:
    """The trained plug-in of a checkpoint, in evaluation mode."""
    entry = _entry(checkpoint, "the checkpoint")
    plugin = Plugin(
        from_plain(PluginSpec, entry["spec"]), entry["hidden_size"], entry["num_layers"]
    )
    plugin.base = from_plain(BaseIdentity, entry["base"]) if entry["base"] is not None else None
    plugin.training_summary = entry["training_summary"]
    state = checkpoint["state_dict"]
    plugin.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items()})
    return plugin.eval()


def base_dtype(checkpoint: dict[str, Any]) -> BaseDtype:
    """The precision the frozen model had in training."""
    return _entry(checkpoint, "the checkpoint")["dtype"]


def _entry(checkpoint: Any, name: str) -> dict[str, Any]:
    entry = checkpoint.get(ENTRY) if isinstance(checkpoint, dict) else None
    if entry is None or entry.get("format_version") != FORMAT_VERSION:
        found = "no plug-in" if entry is None else f"format version {entry.get('format_version')}"
        raise UserError(
            f"{name[0].upper()}{name[1:]} holds {found}, but a checkpoint of train.py with format "
            f"version {FORMAT_VERSION} is needed. Give best.ckpt or last.ckpt of a run's folder."
        )
    return entry
