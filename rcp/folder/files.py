"""The files of an exported folder, and how large sane ones are."""

from rcp.errors import UserError

DESCRIPTION = "plugin.json"
WEIGHTS = "plugin.safetensors"
CARD = "README.md"
EVALUATION = "evaluation.json"
ADAPTERS = "lora"
FILES = (DESCRIPTION, WEIGHTS, CARD, EVALUATION, ADAPTERS)
"""All there may be; the first two rebuild the plug-in."""

MEBIBYTE = 2**20
LARGEST = {DESCRIPTION: 32 * MEBIBYTE, WEIGHTS: 2**14 * MEBIBYTE}
"""Bytes that are read of what rebuilds a plug-in; the base of a real one takes 0.1 to 1 MiB."""


def refuse_too_large(name: str, size: int, where: str) -> None:
    """Raise ``UserError`` where the file ``name`` of ``where`` has more bytes than are read."""
    if size > LARGEST[name]:
        raise UserError(
            f"{name} of {where} has {size / MEBIBYTE:.0f} MiB, which no plug-in has: at most "
            f"{LARGEST[name] / MEBIBYTE:.0f} are read. Ask where it comes from."
        )
