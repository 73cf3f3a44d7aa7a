"""How an engine is told of a plug-in: its arguments and its command line."""

import json
from typing import Any

from rcp.errors import UserError
from rcp.serving.vllm import ARCHITECTURES, served_name
from rcp.serving.vllm.settings import FIELD, Settings

ANY_RATE = 0.5
"""A pruning rate of videos, of which the engine only asks whether it is above 0."""


def engine_arguments(settings: Settings, architecture: str) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM`` that serve the plug-in of ``settings``.

    ``architecture``: what the model's config calls its class. Raises ``UserError`` where it or the
    plug-in cannot be served.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{architecture} is not served yet: {', '.join(ARCHITECTURES)} can be. `rcp.attach` "
            f"prunes the others in transformers."
        )
    entry = settings.entry()
    said = {name: value for name, value in vars(settings).items() if value not in (None, False)}
    overrides: dict[str, Any] = {"architectures": [served_name(architecture)], FIELD: said}
    arguments: dict[str, Any] = {"hf_overrides": overrides}
    if entry.spec.position_policy == "keep":
        # both make the engine ask the model for positions; the decoder itself reads text_config
        overrides["mrope_section"] = [1, 1, 1]
        arguments["video_pruning_rate"] = ANY_RATE
    return arguments


def serve_command(model: str, arguments: dict[str, Any], others: list[str]) -> list[str]:
    """The words of `vllm serve` for ``model``, :func:`engine_arguments` and ``others``.

    Requests may then have arguments for the processor, which lets through their budget alone.
    """
    words = ["serve", model, "--trust-request-mm-kwargs"]
    for name, value in arguments.items():
        words += [f"--{name.replace('_', '-')}", json.dumps(value)]
    return words + others
