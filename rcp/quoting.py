"""What a file holds, as a message may show it: short, in one line, without control characters."""

import re
import reprlib
from pathlib import Path
from typing import Any

from rcp.errors import one_line

SHOWN = 200
"""Characters of a foreign value that a message shows."""

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Tells where an object lay in memory, which is another place in each process."""

_short = reprlib.Repr()
_short.maxstring = SHOWN


def quoted(value: Any) -> str:
    """``value`` in quotes, as Python writes it: whatever cannot be printed is escaped.

    At most ``SHOWN`` characters and three dots, however large or deep the value is.
    """
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, (str, bytes)):
        whole = repr(_without_middle(value))
        return whole if len(whole) <= SHOWN + 3 else f"{whole[:SHOWN]}...{whole[-1]}"
    shown = _short.repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def _without_middle(value: str | bytes) -> str | bytes:
    """Both ends of a ``value`` that is too long: of a path the end says more than the beginning."""
    if len(value) <= SHOWN:
        return value
    half = SHOWN // 2
    if isinstance(value, bytes):
        return value[:half] + b"..." + value[3 - half :]
    return f"{value[:half]}...{value[3 - half :]}"


def plain(text: object) -> str:
    """``text``, such as another library's complaint, likewise in one line; without quotes."""
    shown = " ".join(ADDRESS.sub("", str(text)[: 4 * SHOWN]).split())
    shown = one_line(shown)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
