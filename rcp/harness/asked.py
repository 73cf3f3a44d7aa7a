"""What a harness asks, as messages of a chat template with their images."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rcp.conversations import PLACEHOLDER
from rcp.conversations.images import as_rgb, opened
from rcp.errors import UserError
from rcp.quoting import plain, quoted

logger = logging.getLogger(__name__)

IMAGE = {"type": "image"}


@dataclass(frozen=True)
class Asked:
    """A conversation that the model is to go on with.

    ``messages``: as chat templates take them, each a role and a list of contents; ``images`` in
    RGB, in the order in which the messages show them; ``where`` names it in messages to the user.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image]
    where: str


def of_text(text: str, visuals: Iterable[Any] | None, where: str) -> Asked:
    """One question with the images ``visuals``, which are shown first or where ``text`` says."""
    shown = [{"type": "image", "url": visual} for visual in visuals or ()]
    content = [*shown, {"type": "text", "text": text}]
    return of_messages([{"role": "user", "content": content}], where)


def of_messages(given: Sequence[dict[str, Any]], where: str) -> Asked:
    """A conversation of any number of turns, a system's among them.

    A content is a text, or a list of texts, `{"type": "text", "text": TEXT}`, and images,
    `{"type": "image", "url": IMAGE}` with an image of Pillow or a path. Raises ``UserError`` for
    anything else.
    """
    messages: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    for message in given:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image":
                images.append(_opened(part["url"], where))
            elif part["type"] != "text":
                raise UserError(
                    f"The {where} holds {quoted(part['type'])}, but the model 'rcp' is asked by "
                    f"texts and images only. Leave this task out."
                )
        messages.append({"role": message["role"], "content": _content(parts, where)})
    return Asked(messages, images, where)


def _content(parts: Sequence[dict[str, Any]], where: str) -> list[dict[str, str]]:
    """``parts`` without the images themselves, shown where placeholders in the texts say.

    Texts of tasks may hold as many placeholders as there are images. Other numbers of them mean
    nothing that could be shown, and the processor would count them as images: they are left out.
    """
    shown = sum(part["type"] == "image" for part in parts)
    marked = sum(part["text"].count(PLACEHOLDER) for part in parts if part["type"] == "text")
    if marked not in (0, shown):
        logger.warning(
            "The %s has %d images and %d times '%s' in its text: all images are shown where they "
            "were given.", where, shown, marked, PLACEHOLDER,
        )
    content: list[dict[str, str]] = []
    for part in parts:
        if part["type"] == "image":
            content += [IMAGE] if marked != shown else []
            continue
        for number, text in enumerate(part["text"].split(PLACEHOLDER)):
            content += [IMAGE] if number and marked == shown else []
            text = text.strip() if marked else text
            content += [{"type": "text", "text": text}] if text else []
    return content


def _opened(source: Any, where: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return as_rgb(source)
    if not (isinstance(source, (str, Path)) and os.path.isfile(source)):
        raise UserError(
            f"The {where} gives {quoted(source)} as an image, which is neither one of Pillow nor a "
            f"file. Fetch the files of this task, or leave it out."
        )
    try:
        return opened(Path(source))
    except Exception as error:  # Pillow raises whatever a damaged file makes go wrong
        raise UserError(
            f"The image {quoted(source)} of the {where} cannot be opened ({plain(error)}). Fetch "
            f"the file again."
        ) from error
