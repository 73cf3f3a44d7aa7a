"""Conversations in a Hugging Face data set: memory-mapped, its images decoded when asked for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcp.conversations import PLACEHOLDER, ConversationDataset, LoadedSample, Sample
from rcp.conversations.formats import as_conversation
from rcp.conversations.images import as_rgb
from rcp.conversations.reader import read_row
from rcp.errors import UserError

PREFIX = "hf:"
IMAGE_COLUMNS = ("images", "image")
KINDS = ("parquet", "arrow")

Row = dict[str, Any]


def is_table(source: str) -> bool:
    """Whether ``source`` names a Hugging Face data set and not a file of conversations."""
    return source.startswith(PREFIX) or bool(_files(Path(source)))


def image_column(columns: list[str]) -> str | None:
    """The one of ``columns`` that holds the images."""
    return next((name for name in IMAGE_COLUMNS if name in columns), None)


class TableDataset(ConversationDataset):
    """A data set of ``datasets``: a folder that ``save_to_disk`` wrote, a parquet or arrow file
    or a folder of them, or ``hf:NAME`` or ``hf:NAME:SPLIT`` of the hub.

    Columns: ``conversations``, or ``question`` and ``answer``, as in
    :mod:`rcp.conversations.formats`; ``image`` or ``images``, one or a list, of the type Image;
    ``id`` and ``question_type`` optional. Text is read when the data set is opened, images stay
    on disk until their sample is asked for. Raises ``UserError`` for what cannot be.
    """

    def __init__(self, source: str) -> None:
        self.path = Path(source)
        self.table = open_table(source)
        columns = self.table.column_names
        self.image_column = image_column(columns)
        texts = self.table.remove_columns([n for n in IMAGE_COLUMNS if n in columns])
        self.samples = [
            sample_of(row, number, self.image_column, self.path)
            for number, row in enumerate(texts)
        ]
        if not self.samples:
            raise UserError(f"'{source}' holds no row. Name a split with conversations.")

    def __getitem__(self, index: int) -> LoadedSample:
        column = self.image_column
        fetch = (lambda: self.table[index][column]) if column else lambda: None
        return with_images(self.samples[index], fetch, self.path)


def sample_of(row: Row, number: int, column: str | None, path: Path) -> Sample:
    """The text of one row, checked; ``column`` has the images of those rows that have any."""
    turns = row.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    count = str(first.get("value") if isinstance(first, dict) else row.get("question")).count(
        PLACEHOLDER
    )
    if not turns and column is not None:
        count = max(1, count)
    names = [f"{number}/{place}" for place in range(count)]
    return read_row(as_conversation({**row, "image": names}), number, path, path)


def with_images(sample: Sample, fetch: Callable[[], Any], path: Path) -> LoadedSample:
    """``sample`` with what ``fetch`` decodes: None, an image, or a list of them.

    Raises ``UserError`` for what cannot be decoded, or another number of images than placeholders.
    """
    try:
        found = fetch()
        images = [] if found is None else found if isinstance(found, list) else [found]
        decoded = tuple(as_rgb(image) for image in images)
    except Exception as error:  # Pillow raises a dozen kinds for a damaged file
        raise UserError(
            f"An image of sample '{sample.id}' of '{path}' cannot be read ({error}). "
            "Remove the row, or give the column the type Image."
        ) from error
    if len(decoded) != len(sample.images):
        raise UserError(
            f"Sample '{sample.id}' of '{path}' has {len(decoded)} image(s) and "
            f"{len(sample.images)} '{PLACEHOLDER}' placeholder(s) in its first human turn. "
            "Correct or remove the row."
        )
    return LoadedSample(sample, decoded)


def open_table(source: str, streaming: bool = False) -> Any:
    """The data set ``source`` of ``datasets``; with ``streaming`` one whose images stay bytes.

    Raises ``UserError`` if it cannot be opened.
    """
    import datasets

    try:
        return _streamed(source) if streaming else _mapped(source)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"The data set '{source}' cannot be opened ({str(error).splitlines()[0]}). Give a "
            "folder that save_to_disk wrote, a parquet or arrow file or a folder of them, or "
            "hf:NAME:SPLIT."
        ) from error


def _mapped(source: str) -> Any:
    import datasets

    if os.path.isfile(Path(source) / "state.json"):
        return datasets.load_from_disk(source)
    return datasets.load_dataset(**_arguments(source))


def _streamed(source: str) -> Any:
    import datasets

    # decoded by us, so that an image that cannot be does not end the stream
    return datasets.load_dataset(**_arguments(source), streaming=True).decode(False)


def _arguments(source: str) -> dict[str, Any]:
    """Of ``datasets.load_dataset``."""
    if source.startswith(PREFIX):
        name, _, split = source.removeprefix(PREFIX).partition(":")
        if not name:
            raise ValueError("it has no name")
        return {"path": name, "split": split or "train"}
    files = _files(Path(source))
    kind = files[0].suffix.removeprefix(".")
    return {"path": kind, "data_files": [str(file) for file in files], "split": "train"}


def _files(path: Path) -> list[Path]:
    """The parquet or arrow files that ``path`` is or holds, in the order of their names."""
    if path.suffix.removeprefix(".") in KINDS:
        return [path]
    if not os.path.isdir(path):
        return []
    found = (sorted(path.glob(f"*.{kind}")) for kind in KINDS)
    return next((files for files in found if files), [])
