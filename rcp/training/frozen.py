"""The vision-language model that is trained around, never trained."""

from typing import Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from rcp.errors import UserError

BaseDtype = Literal["float32", "bfloat16"]


def load_frozen(base: str, dtype: BaseDtype) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and processor of ``base`` (folder or hub id), in evaluation mode, frozen."""
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=getattr(torch, dtype))
        processor = AutoProcessor.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The base model '{base}' cannot be loaded ({str(error).splitlines()[0]}). Give the "
            "folder of a Hugging Face vision-language model with its processor, or the id of one "
            "on the hub, and start from the folder that relative paths count from."
        ) from error
    return model.eval().requires_grad_(False), processor
