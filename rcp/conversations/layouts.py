"""The published layouts of a row, each turned into turns of text and the images they speak of.

==================  ================================================================================
field               holds
==================  ================================================================================
``conversations``,  turns ``{"from", "value"}`` (LLaVA) or ``{"role", "content"}`` (chat messages,
``messages``        whose content is text or a list of parts, which may bring their images along);
                    a table may hold them column by column
``texts``           turns ``{"user", "assistant"}`` (the Cauldron)
``question``        a plain question; beside it ``answer``, or ``answers``, of which the most
                    frequent one counts
==================  ================================================================================

A question of the last two is preceded by the images that it does not place itself. The images
stand under ``image``, ``images``, ``image_path`` or ``image_paths``: one or a list.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rcp.conversations.sample import PLACEHOLDER
from rcp.quoting import quoted

Row = dict[str, Any]

TURNS = ("conversations", "messages")
IMAGES = ("image", "images", "image_path", "image_paths")
FIELDS = (*TURNS, "texts", "question")
READ = (*FIELDS, *IMAGES, "answer", "answers", "id", "question_id", "question_type")
"""All fields whose values matter, whatever they hold; of others, whether they look like images."""

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
MEDIA = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mp4", ".avi", ".mkv",
         ".webm", ".mov")
"""How a value ends that names an image or a video."""

NOTHING: tuple[Any, ...] = (None, "", [], {"bytes": None, "path": None})
"""What stands where there is no image."""

INLINE = ("image", "image_url", "path", "url", "base64", "bytes")
"""Where a part of a message's content may hold its image."""


class Refused(ValueError):
    """A row that no layout explains; the message goes on where "Sample 'x'" was said."""


@dataclass(frozen=True)
class Turn:
    """``speaker`` is "human", "gpt" or what the row says in their place; ``raw`` is as it stood."""

    speaker: Any
    text: Any
    raw: Any
    images: tuple[Any, ...] = ()


def turns_and_images(row: Row, every: bool = False) -> tuple[list[Turn], list[Any]]:
    """The first two turns of ``row``, or ``every`` one, and its images, as they are stored.

    Raises :class:`Refused`.
    """
    images = _images(row)
    field = next((name for name in FIELDS if row.get(name) is not None), None)
    if field is None:
        held = ", ".join([quoted(name) for name in row if row[name] is not None][:8]) or "none"
        raise Refused(
            f"has no conversation: none of its fields ({held}) is one of {', '.join(FIELDS)}. "
            "Remove the sample or rename what it says."
        )
    if field == "question":
        question = Turn("human", row["question"], row["question"])
        return [_placed(question, images), Turn("gpt", _answer(row), _answer(row))], images
    turns = _by_row(row[field])
    if not isinstance(turns, list) or not turns:
        raise Refused(
            f"has no conversation: '{field}' must be a list of a human and a gpt turn at least, "
            f"but is {quoted(turns)}. Remove the sample or complete it."
        )
    if field == "texts":
        return _of_pairs(turns if every else turns[:1], images), images
    read = [_turn(turn) for turn in (turns if every else turns[:2])]
    inline = [image for turn in read[::2] for image in turn.images]
    if inline and images:
        raise Refused(
            f"has images in its {field} and {len(images)} more beside them, so that it is unclear "
            "which are meant. Remove one or the other."
        )
    return read, inline or images


def questions_in(row: Any) -> int:
    """How many questions ``row`` has if it is sound; 1 where it has no turns."""
    field = next((name for name in FIELDS if row.get(name) is not None), None)
    turns = None if field is None else _by_row(row[field])
    if not isinstance(turns, list):
        return 1
    return max(1, len(turns) if field == "texts" else len(turns) // 2)


def _images(row: Row) -> list[Any]:
    """The images that stand under a field of their own."""
    given = {name: row[name] for name in IMAGES if row.get(name) not in NOTHING}
    if len(given) > 1:
        raise Refused(
            f"has images under {' and '.join(map(repr, given))}, so that it is unclear which are "
            "meant. Keep one of them."
        )
    found: Any = next(iter(given.values()), [])
    return found if isinstance(found, list) else [found]


def refuse_unread_images(row: Row) -> None:
    """Raise :class:`Refused` where a ``row`` read as text alone has an image in another field."""
    for name, value in row.items():
        if name not in READ and _is_medium(value):
            raise Refused(
                f"has no image, but {quoted(name)} holds {quoted(value)}, which looks like one. "
                f"Images are read from {', '.join(map(repr, IMAGES))} (a video as a list of its "
                "frames): rename that field, or remove it."
            )


def _is_medium(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and _is_medium(value[0])
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes) or _is_medium(value.get("path"))
    if isinstance(value, bytes):
        return True
    return isinstance(value, str) and value.lower().endswith(MEDIA) and not value.count("\n")


def _by_row(turns: Any) -> Any:
    """Turns that a table holds column by column, {"from": [...], "value": [...]}, one by one."""
    if not isinstance(turns, dict) or not all(isinstance(v, list) for v in turns.values()):
        return turns
    if len({len(column) for column in turns.values()}) != 1:
        return turns
    return [dict(zip(turns, values)) for values in zip(*turns.values())]


def _turn(raw: Any) -> Turn:
    """One turn of ``conversations`` or ``messages``, with the images that its content brings."""
    if not isinstance(raw, dict):
        return Turn(None, None, raw)
    said = next((raw[name] for name in ("from", "role") if raw.get(name) is not None), None)
    speaker = SPEAKERS.get(said, said) if isinstance(said, str) else said
    text = next((raw[name] for name in ("value", "content") if raw.get(name) is not None), None)
    if not isinstance(text, list):
        return Turn(speaker, text, raw)
    parts = [_part(part) for part in text]
    images = tuple(image for _, image in parts if image is not None)
    placed = sum(said is PLACEHOLDER for said, _ in parts)
    if images and len(images) != placed:
        raise Refused(
            f"has {placed} image parts in a turn, of which {len(images)} hold an image. Give each "
            "its image, or none and list them under 'images'."
        )
    return Turn(speaker, "\n".join(said for said, _ in parts if said), raw, images)


def _part(part: Any) -> tuple[str, Any]:
    """Text and image of one part of a message's content."""
    if isinstance(part, str):
        return part, None
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind in ("text", None) and isinstance(text, str):
        return text, None
    if kind in ("image", "image_url"):
        held = next((part[name] for name in INLINE if part.get(name) not in (None, "")), None)
        if isinstance(held, dict) and isinstance(held.get("url"), str):
            held = held["url"]
        if held is not None and held == part.get("base64"):
            held = {"bytes": held}
        return PLACEHOLDER, held
    raise Refused(
        f"has a part that is neither text nor an image: {quoted(part)}. Remove the sample; a video "
        "is read as a list of its frames."
    )


def _of_pairs(turns: list[Any], images: list[Any]) -> list[Turn]:
    read: list[Turn] = []
    for pair in turns:
        if not isinstance(pair, dict) or not {"user", "assistant"} <= pair.keys():
            raise Refused(
                "has no conversation: 'texts' must be a list of turns with 'user' and 'assistant', "
                f"but holds {quoted(pair)}. Remove the sample or rewrite it."
            )
        read += [Turn("human", pair["user"], pair), Turn("gpt", pair["assistant"], pair)]
    return [_placed(read[0], images), *read[1:]]


def _placed(question: Turn, images: list[Any]) -> Turn:
    """``question`` preceded by the ``images``, unless it places them itself."""
    text = question.text
    if isinstance(text, str) and images and PLACEHOLDER not in text:
        text = PLACEHOLDER * len(images) + "\n" + text
    return Turn(question.speaker, text, question.raw)


def _answer(row: Row) -> str:
    """The most frequent answer of ``row``, empty where it has none that is text or a number."""
    given = row.get("answers") or row.get("answer")
    texts = [str(a) for a in _listed(given) if isinstance(a, (str, int, float))]
    return Counter(texts).most_common(1)[0][0] if texts else ""


def _listed(given: Any) -> Iterator[Any]:
    for answer in given if isinstance(given, list) else [given]:
        yield answer.get("answer") if isinstance(answer, dict) else answer
