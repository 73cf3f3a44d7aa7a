"""The exported folder: ``plugin.safetensors``, ``plugin.json`` and a model card."""

import json
import os
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcp.atomic_write import standing, whole_folder
from rcp.base_model.identity import BaseIdentity
from rcp.errors import UserError
from rcp.folder.card import model_card
from rcp.folder.peft import save_peft_folder
from rcp.folder.weights import filled
from rcp.plugin import Plugin, PluginSpec
from rcp.typed_values import from_plain

WEIGHTS = "plugin.safetensors"
DESCRIPTION = "plugin.json"
FORMAT_VERSION = 1
WRITTEN = {"format_version", "plugin", "hidden_size", "num_layers", "budget", "base", "versions",
           "training"}
"""The fields of ``plugin.json``."""


@dataclass
class Description:
    """What of ``plugin.json`` rebuilds the plug-in; the rest of the file is for readers."""

    plugin: PluginSpec
    hidden_size: int
    num_layers: int
    base: BaseIdentity | None
    training: dict[str, Any]


def save_plugin(plugin: Plugin, path: str | Path) -> None:
    """Write ``plugin`` as a folder; it appears whole or not at all.

    Raises ``UserError`` if ``path`` exists already or cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise UserError(f"'{path}' exists already. Choose another folder, or remove it first.")
    with whole_folder(path) as unfinished:
        write_files(plugin, unfinished)


def write_files(plugin: Plugin, folder: Path) -> None:
    """Write ``plugin`` into the empty ``folder``; raises ``OSError`` where there is no room."""
    description = describe(plugin)
    weights = {name: value.contiguous().cpu() for name, value in plugin.state_dict().items()}
    try:
        save_file(weights, str(folder / WEIGHTS))
        if plugin.lora is not None:
            base = plugin.base.name_or_path if plugin.base is not None else ""
            save_peft_folder(plugin.lora, base, folder / "lora")
    except SafetensorError as error:
        raise OSError(str(error)) from error
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(description))


def describe(plugin: Plugin) -> dict[str, Any]:
    """The contents of ``plugin.json``: all that rebuilds and explains the plug-in."""
    import transformers

    return {
        "format_version": FORMAT_VERSION,
        "plugin": plugin.spec.to_dict(),
        "hidden_size": plugin.hidden_size,
        "num_layers": plugin.num_layers,
        "budget": {
            "convention": "mean over decoder layers of the kept share of visual tokens",
            "mean_ratio": plugin.mean_ratio,
            "final_ratio": plugin.schedule.ratios[-1] if plugin.schedule.ratios else 1.0,
        },
        "base": plugin.base.to_dict() if plugin.base is not None else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "training": plugin.training_summary,
    }


def load_plugin(path: str | Path) -> Plugin:
    """Read what :func:`save_plugin` wrote; the plug-in refuses other bases than its own.

    Unknown fields and tensors are named in a warning; missing or truncated ones raise
    ``UserError``.
    """
    path = standing(Path(path))
    description = _read_description(path)
    if unknown := sorted(set(description) - WRITTEN):
        warnings.warn(
            f"'{path / DESCRIPTION}' holds fields nobody knows: {', '.join(unknown)}", stacklevel=2
        )
    if missing := {field.name for field in fields(Description)} - set(description):
        raise UserError(
            f"'{path / DESCRIPTION}' is damaged: it lacks '{min(missing)}'. Export the plug-in "
            f"again."
        )
    read = from_plain(Description, {f.name: description[f.name] for f in fields(Description)})
    sizes, weights = (read.hidden_size, read.num_layers), path / WEIGHTS
    plugin = filled(read.plugin, *sizes, _read_weights(weights), f"'{weights}'")
    plugin.base = read.base
    plugin.training_summary = read.training
    return plugin


def load(
    path: str | Path, *, budget: float | None = None, **model_arguments: Any
) -> tuple[nn.Module, Any]:
    """Model and processor named in the folder, with the plug-in attached for good.

    ``budget`` as in :func:`rcp.attach`; ``model_arguments`` go to ``from_pretrained`` of the model
    (dtype, device_map, ...). Raises ``UserError`` for a folder that holds no plug-in or names no
    base, and for a base that cannot be loaded or is another one.
    """
    from rcp.attaching.attach import attach
    from rcp.base_model.loading import pretrained

    plugin = load_plugin(path)
    if plugin.base is None or not plugin.base.name_or_path:
        raise UserError(
            f"'{path}' does not name its base model. Load the model yourself and call rcp.attach."
        )
    try:
        model, processor = pretrained(plugin.base.name_or_path, **model_arguments)
    except UserError as error:
        raise UserError(
            f"{error} That is the name in '{path}': make the model available under it, or load it "
            f"yourself and call rcp.attach."
        ) from error
    attach(model.eval(), plugin, "drop", budget=budget)
    return model, processor


def _read_description(path: Path) -> dict[str, Any]:
    for name in (DESCRIPTION, WEIGHTS):
        if not os.path.isfile(path / name):  # Path.is_file raises where a name is too long
            raise UserError(
                f"'{path}' is no exported plug-in: {name} is missing. Expected are {DESCRIPTION} "
                f"and {WEIGHTS}, as export.py writes them."
            )
    try:
        text = (path / DESCRIPTION).read_text(encoding="utf-8")
        description = json.loads(text, object_pairs_hook=_named_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"'{path / DESCRIPTION}' cannot be read: {error}. Export the plug-in again."
        ) from None
    if not isinstance(description, dict) or "format_version" not in description:
        raise UserError(
            f"'{path / DESCRIPTION}' does not describe a plug-in: it is no JSON object with a "
            f"format_version. Export the plug-in again."
        )
    version = description["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            f"'{path}' has format version {version!r}; this version reads {FORMAT_VERSION}. Update "
            f"rcp, or export the plug-in again."
        )
    return description


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it holds a name twice: readers disagree about which counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds '{name}' twice")
        found[name] = value
    return found


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{file}' is damaged or truncated ({error}). Copy or export it again."
        ) from None
