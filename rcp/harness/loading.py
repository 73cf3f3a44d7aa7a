"""The model that the arguments of a harness name."""

import os
from typing import Any

import torch

from rcp.attaching.attach import attach
from rcp.base_model.loading import pretrained
from rcp.errors import UserError
from rcp.folder.read_write import load_plugin
from rcp.harness.answerer import Answerer
from rcp.quoting import quoted

DTYPES = ("auto", "float32", "bfloat16", "float16")


def answerer(
    base: str | None,
    plugin: str | None,
    budget: float | None,
    dtype: str,
    device: str,
    **model_arguments: Any,
) -> Answerer:
    """The model ``base``, by default the one that the ``plugin`` names, with the plug-in attached.

    ``base`` and ``plugin`` are folders, ``base`` also a hub id; ``budget`` as in
    :func:`rcp.attach`; ``device``: where it runs, a device of torch or a device map of
    transformers; ``model_arguments`` go to ``from_pretrained``. Raises ``UserError`` for what
    cannot be.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {quoted(dtype)}: give one of {', '.join(DTYPES)}.")
    if budget is not None and (plugin is None or type(budget) not in (int, float)):
        raise UserError(
            f"budget is {quoted(budget)}: give visual tokens, mean over layers, or a share of them "
            f"below 1, and with plugin=DIR the plug-in that keeps them."
        )
    loaded = None if plugin is None else load_plugin(plugin)
    named = loaded.base.name_or_path if loaded is not None and loaded.base is not None else ""
    if not (base or named):
        raise UserError(
            "It is not known which model to load: neither pretrained=MODEL nor a plug-in that "
            "names its base is given. Add pretrained with a folder or hub id."
        )
    model, processor = pretrained(base or named, dtype=dtype, device_map=device, **model_arguments)
    model.eval()
    handle = None if loaded is None else attach(model, loaded, budget=budget)
    return Answerer(model, processor, handle)


def own_device(named: str | None) -> str:
    """The device of this process, one of several on a machine: ``named``, or the next GPU."""
    if named in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return named or "cpu"
