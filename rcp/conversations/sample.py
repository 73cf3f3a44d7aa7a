"""One question with its answer, before and after its images are opened; and what cannot be one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from rcp.errors import UserError

PLACEHOLDER = "<image>"
"""Marks the place of an image in the text of a question."""

NO_TYPE = "untyped"
"""Question type of a sample that names none."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An image that lies in a table: number ``place`` of the row ``row``."""

    row: int
    place: int


ImageSource = Path | bytes | Stored
"""Where an image is before it is opened: in a file, in memory, or in a row yet to be fetched."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its answer, as read from its row.

    ``earlier``: the questions and answers of the same conversation before it. These and the
    ``question`` hold one ``PLACEHOLDER`` per image, in the order of ``images``. ``facts`` are what
    the scoring of a published set is told besides; None of other samples.
    """

    id: str
    images: tuple[ImageSource, ...]
    question: str
    answer: str
    question_type: str
    facts: Mapping[str, Any] | None = field(default=None, hash=False)
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is said, in its order."""
        return (*(said for pair in self.earlier for said in pair), self.question, self.answer)

    def without_bytes(self, row: int) -> "Sample":
        """With the places of its images in the row number ``row``, where they were in memory."""
        images = tuple(
            Stored(row, place) if isinstance(image, bytes) else image
            for place, image in enumerate(self.images)
        )
        return replace(self, images=images)


@dataclass(frozen=True)
class LoadedSample:
    """A :class:`Sample` with its images decoded to RGB."""

    sample: Sample
    images: tuple[Image.Image, ...]


class Unreadable(UserError):
    """One row that is of no use, and the message why: the others may be sound.

    ``id`` is what the row calls itself, else its number; ``row`` that number, counted from 0 in
    its source, None where it is not known.
    """

    def __init__(self, message: str, id: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.id = id
        self.row = row


class TooLong(Unreadable):
    """A sound sample of more tokens than are allowed: left out because the user said so."""


class Unfit(UserError):
    """Some samples of a batch cannot be in it: ``faults`` says why, by position."""

    def __init__(self, faults: dict[int, Unreadable]) -> None:
        super().__init__(str(next(iter(faults.values()))))
        self.faults = faults


class Skipped(NamedTuple):
    """What a message says of a sample in whose place another one stands."""

    id: str
    why: str
    too_long: bool
