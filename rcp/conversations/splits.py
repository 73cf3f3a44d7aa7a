"""Which files of a Hugging Face data set on disk are meant: those of one split.

A split is told from names, as the hub does (``train-00000-of-00002.parquet``, ``data/test-*``,
``validation/*.parquet``), or by the list of a ``DatasetDict`` that ``save_to_disk`` wrote. It is
chosen by ``FOLDER:SPLIT``, where it may have any name that the files have, too.
"""

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rcp.errors import UserError
from rcp.quoting import plain, quoted

logger = logging.getLogger(__name__)

PREFIX = "hf:"
KINDS = ("parquet", "arrow")
TRAIN = "train"
VALIDATION = "validation"

NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What a split is called in the names of its files."""

LIST_OF_SPLITS = "dataset_dict.json"
STATE = "state.json"


@dataclass(frozen=True)
class Files:
    """The ``files`` of one split, in order; ``saved`` is their folder if save_to_disk wrote it.

    ``path`` is what messages call them, ``others`` the splits beside them.
    """

    path: Path
    files: tuple[Path, ...]
    saved: Path | None = None
    others: tuple[str, ...] = ()


def is_table(source: str) -> bool:
    """Whether ``source`` names a Hugging Face data set and not a file of conversations."""
    if source.startswith(PREFIX):
        return True
    path, _ = _named(source)
    if path.suffix.removeprefix(".") in KINDS and not os.path.isdir(path):
        return True
    return os.path.isfile(path / LIST_OF_SPLITS) or bool(_tables(path))


def files_of(source: str, split: str = TRAIN) -> Files:
    """The files that ``source`` names; of several splits ``split``, unless it says which.

    Raises ``UserError`` where it is unclear which split is meant.
    """
    path, named = _named(source)
    if not os.path.isdir(path):
        return Files(path, (path,))
    if os.path.isfile(path / LIST_OF_SPLITS):
        splits = {name: _saved(path / name) for name in _listed(path / LIST_OF_SPLITS)}
    elif os.path.isfile(path / STATE):
        return _saved(path)
    else:
        splits = _by_name(path, split if named is None else named)
    if not splits:
        raise UserError(
            f"The data set {quoted(path)} cannot be opened (it holds no parquet or arrow file). "
            "Name a folder that does."
        )
    if len(splits) == 1 and named is None:
        return next(iter(splits.values()))
    chosen = named if named is not None else split
    if chosen not in splits:
        raise UserError(
            f"{quoted(path)} holds the splits {', '.join(map(quoted, splits))}, "
            + (f"but no {quoted(chosen)}" if named is not None else "and none is named")
            + f". Name one of them, such as {quoted(f'{path}:{next(iter(splits))}')}."
        )
    others = tuple(name for name in splits if name != chosen)
    if named is None:
        logger.warning(
            "'%s' holds several splits: '%s' is read, not %s. Name another one with '%s:SPLIT'.",
            path, chosen, ", ".join(map(quoted, others)), path,
        )
    found = splits[chosen]
    return Files(found.path, found.files, found.saved, others)


def _named(source: str) -> tuple[Path, str | None]:
    """The path of ``source``, and the split it names behind a colon."""
    before, colon, split = source.rpartition(":")
    if colon and split and not os.path.lexists(source) and os.path.isdir(before):
        return Path(before), split
    return Path(source), None


def source_of(folder: Path, split: str) -> str:
    """What names the ``split`` of ``folder``: the folder alone where nothing in it tells splits."""
    if not os.path.isfile(folder / LIST_OF_SPLITS):
        if os.path.isfile(folder / STATE) or [*_by_name(folder, split)] == [TRAIN]:
            return str(folder)
    return f"{folder}:{split}"


def _by_name(folder: Path, split: str) -> dict[str, Files]:
    """The tables of ``folder`` by split; those whose names tell none belong to ``TRAIN``.

    A ``split`` of a name of its own, such as "testA", is told by that very word.
    """
    found: dict[str, list[Path]] = {}
    for file in _tables(folder):
        name = str(file.relative_to(folder))
        if split not in NAMES and split in re.split(r"[-_./]", name):
            found.setdefault(split, []).append(file)
            continue
        words = re.split(r"[^a-z]+", name.lower())
        telling = (known for known, names in NAMES.items() if set(names) & set(words))
        found.setdefault(next(telling, TRAIN), []).append(file)
    order = [name for name in (*NAMES, split) if name in found]
    return {name: Files(folder, tuple(found[name])) for name in order}


def _tables(folder: Path) -> list[Path]:
    """The parquet files of ``folder``, or of the folders in it; if there are none, arrow files."""
    if not os.path.isdir(folder):  # Path.glob raises where a name is too long
        return []
    depths = [""]
    # beside a conversation file there may be a million images in a folder
    if not any(folder.glob("*.json*")):
        depths.append("*/")
    found = (sorted(folder.glob(f"{depth}*.{kind}")) for kind in KINDS for depth in depths)
    return next((files for files in found if files), [])


def _saved(folder: Path) -> Files:
    """A folder that ``save_to_disk`` wrote: the files it lists, not caches that came to lie there.
    """
    try:
        listed = json.loads((folder / STATE).read_bytes())["_data_files"]
        files = tuple(folder / entry["filename"] for entry in listed)
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"The data set {quoted(folder)} cannot be opened ({plain(error)} in its {STATE}). Have "
            "it written again by save_to_disk."
        ) from error
    return Files(folder, files, saved=folder)


def _listed(path: Path) -> list[str]:
    try:
        splits = json.loads(path.read_bytes())["splits"]
        if isinstance(splits, list) and splits and all(isinstance(name, str) for name in splits):
            return splits
        raise ValueError(f"its splits are {quoted(splits)}")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"The list of splits {quoted(path)} cannot be read ({plain(error)}). Name the folder "
            "of one split, or have the data set written again by save_to_disk."
        ) from error
