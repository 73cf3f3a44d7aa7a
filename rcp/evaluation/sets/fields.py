"""What the columns of published rows hold, each asked for by name and refused where it is not."""

import re
from typing import Any

from rcp.conversations.layouts import NOTHING, Refused, Row
from rcp.quoting import quoted

NO_TEXT = ("nan", "none")
"""What tables write, in any case, for a text that may be missing; answers may be such words."""

WHOLE = re.compile(r"-?\d{1,18}")


def text(row: Row, name: str) -> str:
    """The text in ``name``, a number written out, without the space around it."""
    found = _written(row, name)
    if not found:
        raise _lacks(row, name, "text")
    return found


def optional_text(row: Row, name: str) -> str:
    """Likewise, empty where there is none."""
    found = _written(row, name)
    return "" if found.lower() in NO_TEXT else found


def texts(row: Row, name: str) -> list[str]:
    """The texts of the list in ``name``, or the one in its place; each as it stands.

    An entry may be an object whose ``answer`` is the text.
    """
    held = row.get(name)
    listed = held if isinstance(held, list) else [held]
    told = [entry.get("answer") if isinstance(entry, dict) else entry for entry in listed]
    found = [entry for entry in told if isinstance(entry, str)]
    if not found or len(found) < len(told):
        raise _lacks(row, name, "a list of texts")
    return [_encodable(entry, name) for entry in found]


def whole(row: Row, name: str) -> int:
    """The whole number in ``name``, or the one that a text there writes."""
    found = _written(row, name)
    if not WHOLE.fullmatch(found):
        raise _lacks(row, name, "a whole number")
    return int(found)


def image(row: Row, name: str = "image") -> Any:
    """The image in ``name``, as it is stored; of a list with one in it, that one."""
    held = row.get(name)
    found = held[0] if isinstance(held, list) and len(held) == 1 else held
    if found in NOTHING:
        raise _lacks(row, name, "an image")
    return found


def frames(row: Row) -> list[Any]:
    """The images in "frames", in order, of a set whose rows name a video."""
    held = row.get("frames")
    if not isinstance(held, list) or not held or any(frame in NOTHING for frame in held):
        raise Refused(
            f"names a video, but has {quoted(held)} under 'frames'. Nothing here decodes videos: "
            "take the frames that the model is to see, as evenly spaced as its paper does, and "
            "list their images there."
        )
    return held


def one_of(row: Row, name: str, allowed: tuple[str, ...]) -> str:
    """The text in ``name``, which must be one of ``allowed`` up to case."""
    found = text(row, name)
    by_case = {word.lower(): word for word in allowed}
    if found.lower() not in by_case:
        raise _lacks(row, name, f"one of {', '.join(allowed)}")
    return by_case[found.lower()]


def _written(row: Row, name: str) -> str:
    """A text or a number as text, empty for anything else."""
    held = row.get(name)
    if isinstance(held, bool) or not isinstance(held, (str, int, float)) or held != held:
        return ""  # NaN, which is not itself, stands where a table has nothing
    return _encodable(str(held).strip(), name)


def _encodable(found: str, name: str) -> str:
    try:
        found.encode()
    except UnicodeEncodeError:
        raise Refused(
            f"has half a character (a lone surrogate) in {quoted(name)}: {quoted(found)}. Correct "
            "or remove the sample."
        ) from None
    return found


def _lacks(row: Row, name: str, what: str) -> Refused:
    held = f"it holds {quoted(row[name])}" if name in row else "there is no such column"
    return Refused(
        f"lacks {what} in {quoted(name)} ({held}). The published set has it: get the row anew, or "
        "remove it."
    )
