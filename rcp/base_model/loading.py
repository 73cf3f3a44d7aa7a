"""The frozen vision-language model and its processor, loaded by name."""

from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rcp.errors import UserError
from rcp.quoting import plain, quoted

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
    model, processor = pretrained(base, dtype=getattr(torch, dtype))
    model.config.name_or_path = base  # of an adapter folder, transformers keeps its base's name
    return (model if device is None else model.to(device)).eval(), processor


def load_processor(base: str) -> Any:
    """The processor of ``base`` alone; raises ``UserError`` if it cannot be loaded."""
    try:
        return AutoProcessor.from_pretrained(base)
    except Exception as error:  # transformers raises a dozen kinds for a damaged folder
        raise _not_loaded(base, error) from error


def pretrained(base: str, trust_remote_code: bool = False, **arguments: Any) -> tuple[Any, Any]:
    """Model and processor of ``base``; ``arguments`` go to ``from_pretrained`` of the model.

    Code that ``base`` brings along is run with ``trust_remote_code`` only. Raises ``UserError`` if
    they cannot be loaded.
    """
    trust = {"trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, **trust, **arguments)
        return model, AutoProcessor.from_pretrained(base, **trust)
    except Exception as error:  # transformers raises a dozen kinds for a damaged folder
        raise _not_loaded(base, error) from error


def _not_loaded(base: str, error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(
        f"The base model {quoted(base)} cannot be loaded ({plain(reason)}). Give the folder of a "
        "Hugging Face vision-language model with its processor, or the id of one on the hub, and "
        "start from the folder that relative paths count from."
    )
