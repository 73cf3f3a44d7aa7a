"""How an engine is told of a plug-in: its arguments and its command line."""

import json
import os
from pathlib import Path
from typing import Any

from rcp.errors import UserError
from rcp.folder.files import ADAPTERS
from rcp.plugin.lora import Lora
from rcp.serving.vllm import ARCHITECTURES, PLACED, WITH_VIDEOS, served_name
from rcp.serving.vllm.settings import FIELD, Settings

ANY_RATE = 0.5
"""A pruning rate of videos, of which the engine only asks whether it is above 0."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters for which the engine makes room."""


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
        arguments["video_pruning_rate"] = ANY_RATE
        if architecture not in PLACED:
            overrides["mrope_section"] = [1, 1, 1]
    if architecture in WITH_VIDEOS:
        arguments["limit_mm_per_prompt"] = {"video": 0}
    if entry.lora is not None:
        arguments |= _adapters(entry.lora, Path(settings.plugin) / ADAPTERS)
    return arguments


def _adapters(lora: Lora, folder: Path) -> dict[str, Any]:
    """What makes the engine add the adapters in ``folder`` for every prompt with an image."""
    if lora.spec.rank > RANKS[-1]:
        raise UserError(
            f"The low-rank adapters have rank {lora.spec.rank}, and vLLM takes {RANKS[-1]} at "
            f"most. Train a plug-in with a smaller lora.rank."
        )
    if not os.path.isdir(folder):
        raise UserError(
            f"'{folder}' is not there, which holds the plug-in's low-rank adapters for vLLM. "
            f"Export the plug-in again, or copy all of its folder."
        )
    return {
        "enable_lora": True,
        "max_lora_rank": next(rank for rank in RANKS if rank >= lora.spec.rank),
        "default_mm_loras": {"image": str(folder)},
    }


def serve_command(model: str, arguments: dict[str, Any], others: list[str]) -> list[str]:
    """The words of `vllm serve` for ``model``, :func:`engine_arguments` and ``others``.

    Requests may then have arguments for the processor, which lets through their budget alone.
    """
    words = ["serve", model, "--trust-request-mm-kwargs"]
    for name, value in arguments.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(json.dumps(value))
    return words + others
