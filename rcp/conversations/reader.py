"""Reader of LLaVA-style conversation files: JSON plus image files on disk."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from rcp.conversations.formats import PLACEHOLDER, read_rows
from rcp.conversations.images import as_rgb
from rcp.errors import UserError

IMAGE_LENGTH = 2000
"""Characters that an image is counted as when samples are put together by length."""

SHOWN = 200
"""Characters of a wrong value that a message shows."""

NO_TYPE = "untyped"
"""Question type of a sample that names none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its answer, as read from the file; images are still paths.

    ``question`` holds one ``PLACEHOLDER`` per image, in the order of ``images``.
    """

    id: str
    images: tuple[Path, ...]
    question: str
    answer: str
    question_type: str


@dataclass(frozen=True)
class LoadedSample:
    """A :class:`Sample` with its images decoded to RGB.

    ``skipped`` says, by id, why each sample that this one stands in for could not be read.
    """

    sample: Sample
    images: tuple[Image.Image, ...]
    skipped: tuple[tuple[str, str], ...] = ()


class ConversationDataset(Dataset[LoadedSample]):
    """Map-style data set over one conversation file, or a folder with one in it.

    The file is a JSON list of ``{"id", "image": path or list of paths, "conversations": [{"from":
    "human" | "gpt", "value"}, ...], "question_type" (optional)}``, or another of the layouts of
    :mod:`rcp.conversations.formats`. Paths are relative to ``image_folder``, by default the
    folder of the file. Rows without ``image`` are text only; a video is a list of its frames.

    Of each conversation the first question and its answer are used, and no other turn: in
    training all turns share one pruning, so that a later question would tell the pruner of the
    first one what will be asked.

    The file is checked as a whole when it is opened; images are decoded when an item is read,
    which is in the workers of a data loader.
    """

    def __init__(self, path: str | Path, image_folder: str | Path | None = None) -> None:
        self.path = conversation_file(Path(path))
        self.samples = read_conversations(self.path, image_folder)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> LoadedSample:
        sample = self.samples[index]
        return LoadedSample(sample, tuple(_decode(path, sample.id) for path in sample.images))

    @property
    def lengths(self) -> list[int]:
        """How long each sample is, about: characters, and an image as much as a long text."""
        return [
            len(s.question) + len(s.answer) + IMAGE_LENGTH * len(s.images) for s in self.samples
        ]

    @property
    def question_types(self) -> tuple[str, ...]:
        """The question types that occur, sorted."""
        return tuple(sorted({sample.question_type for sample in self.samples}))


def conversation_file(path: Path) -> Path:
    """``path`` itself, or the one JSON file in that folder; refuses what does not exist."""
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(
                f"There is no conversation file '{path}'. Give the path of a LLaVA-style JSON "
                "file; the embedded data are written by 'make data', or 'python -m data.generate "
                "--help'."
            )
        return path
    found = sorted(path.glob("*.json"))
    if len(found) != 1:
        raise UserError(
            f"The folder '{path}' holds {len(found)} JSON files, so it is unclear which one has "
            "the conversations. Name the file itself."
        )
    return found[0]


def read_conversations(path: Path, image_folder: str | Path | None = None) -> list[Sample]:
    """All samples of a conversation file, checked; see :class:`ConversationDataset`."""
    folder = path.parent if image_folder is None else Path(image_folder)
    samples = [read_row(row, number, path, folder) for number, row in enumerate(read_rows(path))]
    _check_images_exist(samples)
    return samples


def read_row(row: Any, number: int, path: Path, folder: Path) -> Sample:
    """One row, checked, but for the images' existence; refused by its id, or else its number."""
    name = row.get("id") if isinstance(row, dict) else None
    name = str(number if name is None else name)
    turns = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(turns, list) or len(turns) < 2:
        raise UserError(
            f"Sample '{name}' of '{path}' has no conversation: 'conversations' must be a list of "
            "a human and a gpt turn at least. Remove the sample or complete it."
        )
    question, answer = _text(turns[0], "human", name, path), _text(turns[1], "gpt", name, path)
    images = row.get("image") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(i, str) and i for i in images):
        raise UserError(
            f"The image of sample '{name}' of '{path}' is {_short(images)}, but it must be the "
            "path of an image file, or a list of such paths. Correct or remove the sample."
        )
    placeholders = question.count(PLACEHOLDER)
    if placeholders != len(images):
        raise UserError(
            f"The question of sample '{name}' of '{path}' has {placeholders} '{PLACEHOLDER}' "
            f"placeholder(s), but the sample has {len(images)} image(s). Each image needs exactly "
            f"one '{PLACEHOLDER}' in the first human turn; correct the question or the image list."
        )
    return Sample(
        id=name,
        images=tuple(folder / image for image in images),
        question=question,
        answer=answer.strip(),
        question_type=str(row.get("question_type") or NO_TYPE),
    )


def _text(turn: Any, speaker: str, name: str, path: Path) -> str:
    """The text of one turn, which must be the speaker's and not empty."""
    said = turn.get("value") if isinstance(turn, dict) and turn.get("from") == speaker else None
    if not isinstance(said, str) or not said.strip():
        raise UserError(
            f"Sample '{name}' of '{path}' does not open with a 'human' turn followed by a 'gpt' "
            f"turn, each with a non-empty 'value': the '{speaker}' turn reads {_short(turn)}. "
            "Correct or remove the sample."
        )
    return said


def _short(value: Any) -> str:
    """``value`` as a message shows it: a whole picture may have come in its place."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def _check_images_exist(samples: Sequence[Sample]) -> None:
    checked: set[Path] = set()
    for sample in samples:
        for image in sample.images:
            if image not in checked and not os.path.isfile(image):
                raise UserError(
                    f"Sample '{sample.id}' names the image '{image}', which does not exist. Paths "
                    "are relative to the image folder, by default the folder of the conversation "
                    "file: put the file there or give the right image folder."
                )
            checked.add(image)


def _decode(path: Path, name: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except Exception as error:  # Pillow raises a dozen kinds for a damaged file
        raise UserError(
            f"The image '{path}' of sample '{name}' cannot be read ({error}). Replace the file "
            "or remove the sample from the conversation file."
        ) from error
