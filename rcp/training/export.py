"""From a training checkpoint to a plug-in folder that is known to load."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ProcessorMixin

from rcp.atomic_write import standing, whole_folder
from rcp.attaching.attach import attach
from rcp.base_model.loading import load_trained_on
from rcp.conversations import PLACEHOLDER, ConversationCollator, LoadedSample, Sample
from rcp.errors import UserError
from rcp.folder.files import DESCRIPTION
from rcp.folder.read_write import load_plugin, write_files
from rcp.folder.scorer import save_scorer
from rcp.plugin import Plugin
from rcp.refusals import refuse_unwritable
from rcp.training.checkpoint import (
    precision,
    read_checkpoint,
    rebuild_plugin,
    trained,
    trained_on,
)


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    overwrite: bool = False,
    base: str | None = None,
    evaluation: Path | None = None,
) -> Plugin:
    """Write the plug-in of ``checkpoint`` as the folder ``output`` and return it.

    ``base``: folder or hub id of its base model, where that is no longer under the name it had in
    training; the folder will name this one. ``evaluation``: the rows that evaluate.py wrote, which
    go into the folder, and as a table onto its model card.

    The folder appears only after what was written has been read back and gives the same logits
    on the base model; a kill leaves it, or the one it replaces, where ``load_plugin`` finds it.
    Raises ``UserError`` for an existing ``output`` (unless with ``overwrite`` it is a plug-in), a
    checkpoint or ``evaluation`` that cannot be read, or a base model that cannot be loaded or is
    another one.
    """
    refuse_unwritable(output, "--output")
    there = os.path.lexists(standing(output))
    if there and not overwrite:
        raise UserError(
            f"'{output}' exists already. Name another folder with --output, or replace it with "
            "--overwrite."
        )
    if there and not os.path.isfile(standing(output) / DESCRIPTION):
        raise UserError(
            f"'{output}' is not an exported plug-in, and --overwrite replaces nothing else: it may "
            "be worth hours. Name another folder with --output, or remove it first."
        )
    content = read_checkpoint(checkpoint)
    plugin = rebuild_plugin(content)
    name = f"'{checkpoint}'"
    entry = trained(content, name)
    named = trained_on(entry, name)
    model, processor = load_trained_on(named.name_or_path, base, precision(entry, name))
    plugin.base = replace(named, name_or_path=base or named.name_or_path)
    inputs = _check_inputs(processor)
    with whole_folder(output) as unfinished:
        write_files(plugin, unfinished, evaluation=evaluation)
        _verify(model, inputs, plugin, load_plugin(unfinished))
    return plugin


def export_scorer(source: Path, output: Path, overwrite: bool = False) -> None:
    """Write the ONNX file ``output`` of the first stage of ``source``, a checkpoint or an exported
    folder.

    Raises ``UserError`` as :func:`rcp.folder.scorer.save_scorer`, and for a ``source`` that is
    neither.
    """
    folder = os.path.isfile(standing(source) / DESCRIPTION)
    plugin = load_plugin(source) if folder else rebuild_plugin(read_checkpoint(source))
    save_scorer(plugin, output, overwrite)


def _verify(model: nn.Module, inputs: dict[str, Tensor], trained: Plugin, read: Plugin) -> None:
    """Refuse unless both plug-ins hold the same weights and give the same logits."""
    same = all(
        torch.equal(value, read.state_dict()[name]) for name, value in trained.state_dict().items()
    )
    if not same or not torch.equal(_logits(model, inputs, trained), _logits(model, inputs, read)):
        raise RuntimeError("the exported folder does not read back as the checkpoint's plug-in")


@torch.inference_mode()
def _logits(model: nn.Module, inputs: dict[str, Tensor], plugin: Plugin) -> Tensor:
    with attach(model, plugin, "drop"):
        return model(**inputs).logits


def _check_inputs(processor: ProcessorMixin) -> dict[str, Tensor]:
    """Two prompts with an image of noise each, the same every time."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for number in range(2):
        pixels = torch.randint(0, 256, (224, 224, 3), generator=generator, dtype=torch.uint8)
        question = f"{PLACEHOLDER}\nWhat is in the image?" + " Answer in one word." * number
        sample = Sample(str(number), (), question, "", "")
        items.append(LoadedSample(sample, (Image.fromarray(pixels.numpy()),)))
    return ConversationCollator(processor, max_length=2**20, with_answers=False)(items)["inputs"]
