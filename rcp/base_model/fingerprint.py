"""What the outputs of a frozen model depend on, in short strings that can be compared."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin

from rcp.atomic_write import atomic
from rcp.conversations import ConversationDataset, Sample
from rcp.conversations.rows import is_file
from rcp.conversations.sample import ImageSource, Stored
from rcp.errors import UserError
from rcp.quoting import plain

SAMPLED = 64
"""Values of each tensor that are looked at."""


def fingerprint(
    model: nn.Module, processor: ProcessorMixin, dataset: ConversationDataset, **settings: Any
) -> dict[str, str]:
    """Of base, processor, data and further ``settings``, by what each is called in a message."""
    return {
        "base model": of_weights(model),
        "processor": _of_processor(processor),
        "data": _of_samples(dataset.samples),
        **{name: str(value) for name, value in settings.items()},
    }


def record(path: Path, mine: dict[str, str]) -> None:
    """Write ``mine`` to the file ``path``; raises ``UserError`` where it cannot be written."""
    with atomic(path) as unfinished:
        unfinished.write_text(json.dumps(mine, indent=2) + "\n")


def that_differ(path: Path, mine: dict[str, str]) -> list[str]:
    """The names by which ``mine`` is not what :func:`record` wrote to ``path``.

    Raises ``UserError`` for a file that is damaged or not there.
    """
    try:
        theirs = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is damaged ({plain(error)}). Remove the folder it lies in."
        ) from error
    if not isinstance(theirs, dict):
        raise UserError(
            f"'{path}' is damaged: it is not a JSON object. Remove the folder it lies in."
        )
    return [name for name in mine if theirs.get(name) != mine[name]]


def of_weights(model: nn.Module) -> str:
    """Names, shapes and evenly spaced values of all tensors: reading all of 7B takes too long."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if type(tensor) is not Tensor:  # torchao's can be asked for no single value
            tensor = tensor.dequantize()
        values = tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLED)][: 2 * SAMPLED]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]


def _of_processor(processor: Any) -> str:
    tokenizer = processor.tokenizer
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = [processor.to_json_string(), vocabulary, str(processor.chat_template)]
    return _digest(parts)


def _of_samples(samples: Sequence[Sample]) -> str:
    """Texts, and names and sizes of the image files; pixels are not read."""
    return _digest(
        "\0".join([sample.id, *_in_turn(sample), *map(_of_image, sample.images)])
        for sample in samples
    )


def _in_turn(sample: Sample) -> tuple[str, ...]:
    """What the sample says, its own question and answer first."""
    return (*sample.texts[-2:], *sample.texts[:-2])


def _of_image(image: ImageSource) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, Stored):
        return f"{image.row}/{image.place}"
    return f"{image.name} {image.stat().st_size}" if is_file(image) else image.name


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\1")
    return digest.hexdigest()[:16]
