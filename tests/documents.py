"""The texts for readers, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "data/README.md", "CONTRIBUTING.md", "CHANGELOG.md",
             *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the word behind its fence ("" for none), and its text."""

    language: str
    text: str


def read(document: str) -> str:
    """The text of ``document``, a path from the root of the repository."""
    return (ROOT / document).read_text("utf-8")


def blocks(document: str, language: str | None = None) -> list[Block]:
    """The blocks of ``document`` in order: all, or those of one ``language``."""
    found = [Block(*match.groups()) for match in FENCED.finditer(read(document))]
    return [block for block in found if language in (None, block.language)]


def prose(document: str) -> str:
    """``document`` without its blocks."""
    return FENCED.sub("", read(document))
