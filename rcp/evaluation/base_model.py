"""The frozen base model and its processor."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rcp.errors import UserError


def load_base(base: str, dtype: str, device: str) -> tuple[Any, Any]:
    """Model and processor of ``base`` (folder or hub id), in evaluation mode on ``device``."""
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype=getattr(torch, dtype))
        processor = AutoProcessor.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The base model '{base}' cannot be loaded ({str(error).splitlines()[0]}). Give the "
            "folder of a Hugging Face vision-language model with its processor, or the id of one "
            "on the hub, with --base."
        ) from error
    return model.to(device).eval(), processor
