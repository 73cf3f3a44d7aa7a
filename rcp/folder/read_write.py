"""The exported folder, ``plugin.safetensors``, ``plugin.json`` and a card: here, or of the hub."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcp.atomic_write import standing, whole_folder
from rcp.errors import UserError
from rcp.folder.card import model_card
from rcp.folder.description import describe, read_description
from rcp.folder.files import (
    ADAPTERS,
    CARD,
    DESCRIPTION,
    EVALUATION,
    WEIGHTS,
    refuse_too_large,
)
from rcp.folder.hub import ACCESS, fetched, is_hub_id
from rcp.folder.measured import read_measured
from rcp.folder.peft import save_peft_folder
from rcp.folder.weights import filled
from rcp.plugin import Plugin
from rcp.quoting import plain, quoted

AGAIN = "Export the plug-in again."


def save_plugin(plugin: Plugin, path: str | Path) -> None:
    """Write ``plugin`` as a folder; it appears whole or not at all.

    Raises ``UserError`` if ``path`` exists already or cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise UserError(f"'{path}' exists already. Choose another folder, or remove it first.")
    with whole_folder(path) as unfinished:
        write_files(plugin, unfinished)


def write_files(
    plugin: Plugin, folder: Path, name: str = "this/folder", evaluation: str | Path | None = None
) -> None:
    """Write ``plugin`` into the empty ``folder``; raises ``OSError`` where there is no room.

    The model card says that it is loaded by ``name``, and what ``evaluation``, the rows that
    evaluate.py wrote, found; these are then among the files. Raises ``UserError`` for other ones.
    """
    description = describe(plugin)
    measured = [] if evaluation is None else read_measured(Path(evaluation))
    weights = {name: value.contiguous().cpu() for name, value in plugin.state_dict().items()}
    try:
        save_file(weights, str(folder / WEIGHTS))
        if plugin.lora is not None:
            base = plugin.base.name_or_path if plugin.base is not None else ""
            save_peft_folder(plugin.lora, base, folder / ADAPTERS)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    (folder / CARD).write_text(model_card(description, name, measured))
    if evaluation is not None:
        shutil.copyfile(evaluation, folder / EVALUATION)


def load_plugin(path: str | Path, *, revision: str | None = None, **access: Any) -> Plugin:
    """Read what :func:`save_plugin` wrote; the plug-in refuses other bases than its own.

    ``path``: a folder, or where there is none of that name a repository of the hub, "org/name", at
    ``revision`` (branch, tag or commit); ``access``: token, cache_dir, force_download and
    local_files_only, as ``from_pretrained`` of Hugging Face takes them. Unknown fields and tensors
    are named in a warning; missing or truncated ones raise ``UserError``, as does what is neither.
    """
    path = _found(path, revision, access)
    source, weights = f"'{path / DESCRIPTION}'", path / WEIGHTS
    read = read_description(_description(path), source, AGAIN)
    tensors = _read_weights(weights)
    plugin = filled(read.plugin, read.hidden_size, read.num_layers, tensors, f"'{weights}'")
    plugin.base = read.base
    plugin.training_summary = read.training
    return plugin


def load(
    path: str | Path,
    *,
    base: str | None = None,
    budget: float | None = None,
    revision: str | None = None,
    **model_arguments: Any,
) -> tuple[nn.Module, Any]:
    """Model and processor named in the folder, with the plug-in attached for good.

    ``path`` and ``revision`` are the plug-in's, as in :func:`load_plugin`. ``base``: folder or hub
    id of the model, where it is no longer under that name; ``budget`` as in :func:`rcp.attach`;
    ``model_arguments`` go to ``from_pretrained`` of the model (dtype, device_map, ...), those that
    say how the hub is reached (token, ...) to both. Raises ``UserError`` for what holds no plug-in
    or names no base, and for a base that cannot be loaded or is another one.
    """
    from rcp.attaching.attach import attach
    from rcp.base_model.loading import pretrained

    access = {name: model_arguments[name] for name in ACCESS if name in model_arguments}
    plugin = load_plugin(path, revision=revision, **access)
    named = plugin.base.name_or_path if plugin.base is not None else ""
    if not (base or named):
        raise UserError(
            f"'{path}' does not name its base model. Name it, as in rcp.load('{path}', "
            f"base='MODEL'), or load it yourself and call rcp.attach."
        )
    try:
        model, processor = pretrained(base or named, **model_arguments)
    except UserError as error:
        if base is not None:
            raise
        raise UserError(
            f"{error} That is the name in '{path}': say where the model is now, as in "
            f"rcp.load('{path}', base='MODEL'), or load it yourself and call rcp.attach."
        ) from error
    attach(model.eval(), plugin, "drop", budget=budget)
    return model, processor


def _found(path: str | Path, revision: str | None, access: dict[str, Any]) -> Path:
    """The folder to read: the one here, or else the one fetched from the hub."""
    if strange := sorted(set(access).difference(ACCESS)):
        raise TypeError(f"load_plugin() got an unexpected keyword argument '{strange[0]}'")
    folder = standing(Path(path))
    if not os.path.lexists(folder) and is_hub_id(str(path)):
        return fetched(str(path), revision, **access)
    if revision is not None:
        raise UserError(
            f"revision={quoted(revision)} is one of a repository on the hub, and '{path}' is a "
            f"folder or no name of such a repository. Leave it out; of a base model, load that "
            f"yourself at its revision, and call rcp.attach."
        )
    return folder


def _description(path: Path) -> Any:
    """The contents of ``plugin.json``, whatever they are."""
    for name in (DESCRIPTION, WEIGHTS):
        if not os.path.isfile(path / name):
            raise UserError(
                f"'{path}' is no exported plug-in: {name} is missing. Expected are {DESCRIPTION} "
                f"and {WEIGHTS}, as export.py writes them."
            )
        refuse_too_large(name, os.path.getsize(path / name), f"'{path}'")
    try:
        text = (path / DESCRIPTION).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_named_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path / DESCRIPTION}' cannot be read: {plain(error)}. {AGAIN}") from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it holds a name twice: readers disagree about which counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds {quoted(name)} twice")
        found[name] = value
    return found


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{file}' is damaged or truncated ({plain(error)}). Copy or export it again."
        ) from None
