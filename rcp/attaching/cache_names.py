"""The cache of a generation among arguments and outputs: releases call it differently."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

NAMES = ("cache", "past_key_values")
"""Since transformers 5.24, and before it. A later release still takes the old name from callers, so
that a forward may meet either."""


def cache_in(values: Mapping[str, Any]) -> Any:
    """The cache among the arguments or outputs ``values`` of a model or a layer, or None."""
    return next((values[name] for name in NAMES if values.get(name) is not None), None)


def cache_among(values: tuple[Any, ...]) -> Any:
    """The cache among the ``values`` of an output without names, or None."""
    return next((value for value in values if hasattr(value, "get_seq_length")), None)


def cache_name(module: nn.Module) -> str:
    """What ``module`` itself calls the cache it takes."""
    taken = inspect.signature(module.forward).parameters
    return next(name for name in NAMES if name in taken)
