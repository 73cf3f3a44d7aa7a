"""The frozen vision-language model and its processor, loaded by name."""

from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rcp.errors import UserError

BaseDtype = Literal["float32", "bfloat16"]
"""Precision of a base that is trained around."""


def load_base(base: str, dtype: str, device: str | None = None) -> tuple[Any, Any]:
    """Model and processor of ``base`` (folder or hub id), in evaluation mode.

    ``base`` may also be a PEFT adapter folder that holds a processor: the model is then the
    adapter's own base with the adapter on it. ``dtype`` names a torch dtype. Raises
    ``UserError`` for a base that cannot be loaded.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"The device '{device}' cannot be used ({str(error).splitlines()[0]}). Give one "
                "that torch has here, such as cpu or cuda."
            ) from error
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype=getattr(torch, dtype))
        processor = AutoProcessor.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The base model '{base}' cannot be loaded ({str(error).splitlines()[0]}). Give the "
            "folder of a Hugging Face vision-language model with its processor, or the id of one "
            "on the hub, and start from the folder that relative paths count from."
        ) from error
    model.config.name_or_path = base  # of an adapter folder, transformers keeps its base's name
    return (model if device is None else model.to(device)).eval(), processor
