"""The frozen vision-language model and its processor, loaded by name."""

import json
import os
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rcp.errors import UserError
from rcp.quoting import plain, quoted

BaseDtype = Literal["float32", "bfloat16"]
"""Precision of a base that is trained around."""

ADAPTER = "adapter_config.json"
"""The file by which a folder is known to hold a PEFT adapter."""

PROCESSOR = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Those by which it is known to hold a processor."""


class BaseNotLoaded(UserError):
    """There is no base model where one was looked for, or it cannot be read."""


def load_trained_on(
    named: str, given: str | None, dtype: str, device: str | None = None
) -> tuple[Any, Any]:
    """As :func:`load_base`, the base that something was trained on.

    ``named``: where it was then; ``given``: where the command line says that it is now, by
    --base, or None. Raises ``UserError`` as :func:`load_base`, with the way out.
    """
    try:
        return load_base(given or named, dtype, device)
    except BaseNotLoaded as error:
        if given is not None:
            raise
        raise UserError(
            f"{error} It was there when the plug-in was trained: say with --base where it is now."
        ) from error


def load_base(base: str, dtype: str, device: str | None = None) -> tuple[Any, Any]:
    """Model and processor of ``base`` (folder or hub id), in evaluation mode.

    ``base`` may also be a PEFT adapter folder: the model is then the adapter's own base with the
    adapter on it, and the processor that base's, unless the folder holds one. ``dtype``
    names a torch dtype. Raises ``UserError`` for a base that cannot be loaded.
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

    Code that ``base`` brings along is run with ``trust_remote_code`` only. Raises
    ``BaseNotLoaded``, a ``UserError``, if they cannot be loaded.
    """
    trust = {"trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, **trust, **arguments)
        return model, AutoProcessor.from_pretrained(_home_of_processor(base), **trust)
    except Exception as error:  # transformers raises a dozen kinds for a damaged folder
        raise _not_loaded(base, error) from error


def _not_loaded(base: str, error: Exception) -> BaseNotLoaded:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return BaseNotLoaded(
        f"The base model {quoted(base)} cannot be loaded ({plain(reason)}). Give the folder of a "
        "Hugging Face vision-language model with its processor, or the id of one on the hub, and "
        "start from the folder that relative paths count from."
    )


def config_of(base: str) -> Any:
    """The configuration of ``base``, without its weights; None where it cannot be read.

    Of an adapter folder, that of the base it names.
    """
    try:
        return AutoConfig.from_pretrained(_named_by_adapter(base) or base)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # loading it says why


def _home_of_processor(base: str) -> str:
    """``base``, or of an adapter folder without a processor the base that it names."""
    if any(os.path.isfile(os.path.join(base, name)) for name in PROCESSOR):
        return base
    return _named_by_adapter(base) or base


def _named_by_adapter(folder: str) -> str | None:
    """The base that the adapter in ``folder`` names; None where there is no adapter."""
    path = os.path.join(folder, ADAPTER)
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        return str(json.load(file)["base_model_name_or_path"])
