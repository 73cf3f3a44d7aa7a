"""Conversations in a Hugging Face data set: memory-mapped, its images decoded when asked for."""

from pathlib import Path
from typing import Any

from rcp.conversations import PLACEHOLDER, ConversationDataset, LoadedSample
from rcp.conversations.formats import as_conversation
from rcp.conversations.reader import read_row
from rcp.errors import UserError

PREFIX = "hf:"
IMAGE_COLUMNS = ("images", "image")


def is_table(source: str) -> bool:
    """Whether ``source`` names a Hugging Face data set and not a file of conversations."""
    path = Path(source)
    return (
        source.startswith(PREFIX)
        or path.suffix in (".parquet", ".arrow")
        or (path / "state.json").is_file()
    )


class TableDataset(ConversationDataset):
    """A data set of ``datasets``: a folder that ``save_to_disk`` wrote, a parquet or arrow file,
    or ``hf:NAME`` or ``hf:NAME:SPLIT`` of the hub.

    Columns: ``conversations``, or ``question`` and ``answer``, as in
    :mod:`rcp.conversations.formats`; ``image`` or ``images``, one or a list, of the type Image;
    ``id`` and ``question_type`` optional. Text is read when the data set is opened, images stay
    on disk until their sample is asked for. Raises ``UserError`` for what cannot be.
    """

    def __init__(self, source: str) -> None:
        self.path = Path(source)
        self.table = _open(source)
        columns = self.table.column_names
        self.image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
        texts = self.table.remove_columns([n for n in IMAGE_COLUMNS if n in columns])
        self.samples = []
        for number, row in enumerate(texts):
            turns = row.get("conversations")
            question = turns[0].get("value") if turns else row.get("question")
            count = str(question).count(PLACEHOLDER)
            if not turns and self.image_column is not None:
                count = max(1, count)
            names = [f"{number}/{place}" for place in range(count)]
            named = as_conversation({**row, "image": names})
            self.samples.append(read_row(named, number, self.path, self.path))
        if not self.samples:
            raise UserError(f"'{source}' holds no row. Name a split with conversations.")

    def __getitem__(self, index: int) -> LoadedSample:
        sample = self.samples[index]
        try:
            found = self.table[index][self.image_column] if self.image_column else None
            images = [] if found is None else found if isinstance(found, list) else [found]
            decoded = tuple(image.convert("RGB") for image in images)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"An image of sample '{sample.id}' of '{self.path}' cannot be read ({error}). "
                "Remove the row, or give the column the type Image."
            ) from error
        if len(decoded) != len(sample.images):
            raise UserError(
                f"Sample '{sample.id}' of '{self.path}' has {len(decoded)} image(s) and "
                f"{len(sample.images)} '{PLACEHOLDER}' placeholder(s) in its first human turn. "
                "Correct or remove the row."
            )
        return LoadedSample(sample, decoded)


def _open(source: str) -> Any:
    import datasets

    try:
        if source.startswith(PREFIX):
            name, _, split = source.removeprefix(PREFIX).partition(":")
            return datasets.load_dataset(name, split=split or "train")
        path = Path(source)
        if path.is_dir():
            return datasets.load_from_disk(source)
        kind = path.suffix.removeprefix(".")
        return datasets.load_dataset(kind, data_files=source, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"The data set '{source}' cannot be opened ({str(error).splitlines()[0]}). Give a "
            "folder that save_to_disk wrote, a parquet or arrow file, or hf:NAME:SPLIT."
        ) from error
