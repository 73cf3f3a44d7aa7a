"""What rebuilds and explains a plug-in beside its weights: one for folders and checkpoints."""

import warnings
from dataclasses import dataclass, fields
from typing import Any

import torch

from rcp.base_model.identity import BaseIdentity
from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec
from rcp.quoting import plain, quoted
from rcp.typed_values import from_plain

FORMAT_VERSION = 1
FOR_READERS = {"format_version", "budget", "versions"}
"""Fields that rebuild nothing, beside those of :class:`Description`."""


@dataclass
class Description:
    """What of a plug-in's description rebuilds it; ``base`` is None where it fits any model."""

    plugin: PluginSpec
    hidden_size: int
    num_layers: int
    base: BaseIdentity | None
    training: dict[str, Any]


def describe(plugin: Plugin) -> dict[str, Any]:
    """All that rebuilds and explains ``plugin``, in plain values."""
    import transformers

    return {
        "format_version": FORMAT_VERSION,
        "plugin": plugin.spec.to_dict(),
        "hidden_size": plugin.hidden_size,
        "num_layers": plugin.num_layers,
        "budget": {
            "convention": "mean over decoder layers of the kept share of visual tokens",
            "mean_ratio": plugin.mean_ratio,
            "final_ratio": plugin.schedule.ratios[-1] if plugin.schedule.ratios else 1.0,
        },
        "base": plugin.base.to_dict() if plugin.base is not None else None,
        "versions": {  # torch's is a class of its own, which no checkpoint may carry
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
        "training": plugin.training_summary,
    }


def read_description(values: Any, source: str, remedy: str) -> Description:
    """What :func:`describe` gave, as it was read from ``source``.

    Unknown fields are named in a warning. Raises ``UserError``, which ends in ``remedy``, for
    another format version and for a field that is missing or of a wrong type.
    """
    if not isinstance(values, dict) or "format_version" not in values:
        raise UserError(
            f"{source} does not describe a plug-in: there is no object with a format_version. "
            f"{remedy}"
        )
    version = values["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            f"{source} has format version {quoted(version)}; this version of rcp reads "
            f"{FORMAT_VERSION}. {remedy} Or update rcp."
        )
    names = [field.name for field in fields(Description)]
    if missing := sorted(set(names) - set(values)):
        raise UserError(f"{source} is damaged: it lacks '{missing[0]}'. {remedy}")
    if unknown := sorted(set(values) - set(names) - FOR_READERS):
        warnings.warn(f"{source} holds unknown fields: {plain(', '.join(unknown))}", stacklevel=3)
    try:
        return from_plain(Description, {name: values[name] for name in names})
    except UserError as error:
        raise UserError(f"{source} is damaged: {error} {remedy}") from error
