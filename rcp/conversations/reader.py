"""Reader of conversation files: JSON, with images in files beside it or in the rows."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rcp.conversations.asked import AS_IT_STANDS, Reading
from rcp.conversations.formats import read_rows
from rcp.conversations.leave_out import LeftOut
from rcp.conversations.rows import Source, is_file, own_id
from rcp.conversations.sample import LoadedSample, Sample, Unreadable
from rcp.errors import UserError
from rcp.quoting import quoted

IMAGE_LENGTH = 2000
"""Characters that an image is counted as when samples are put together by length."""

JSON = (".json", ".jsonl")


class ConversationDataset(Dataset[LoadedSample]):
    """Map-style data set over one conversation file, or a folder with one in it.

    The file is a list of rows in any of the layouts of :mod:`rcp.conversations.formats` and
    :mod:`rcp.conversations.layouts`. Paths of images are relative to ``image_folder``, by default
    the folder of the file. Rows without an image are text only; a video is a list of its frames.

    Of each conversation the first question and its answer are used, or with ``all_turns`` each
    question in its turn, with the earlier ones and their answers before it: a sample for each.

    Every row is read when the file is opened: ``samples`` are those whose text is sound, at the
    places ``numbers`` of the file, and ``unreadable`` says what is wrong with the others. Rows of
    ``left_out`` are in neither. What the rows call themselves, by number, is in ``own_ids``; ids
    that occur again, listed in ``repeated``, are made unique by the number of their row. Images
    are opened when an item is read, which is in the workers of a data loader; an item whose image
    cannot be raises ``Unreadable``. ``reading`` is for rows of a published set, one of which may
    ask several questions or none.
    """

    def __init__(
        self,
        path: str | Path,
        image_folder: str | Path | None = None,
        left_out: LeftOut | None = None,
        reading: Reading = AS_IT_STANDS,
        all_turns: bool = False,
    ) -> None:
        self.path = conversation_file(Path(path))
        folder = self.path.parent if image_folder is None else Path(image_folder)
        source = Source(self.path, folder, reading, all_turns)
        self._read(enumerate(read_rows(self.path)), source, left_out)

    def _read(
        self, rows: Iterable[tuple[int, Any]], source: Source, left_out: LeftOut | None
    ) -> None:
        """Take in the rows, each with its number."""
        self.source = source
        self.unreadable: list[Unreadable] = []
        self.numbers: list[int] = []
        self.own_ids: dict[int, str | None] = {}
        self.samples: list[Sample] = []
        names = Names()
        for number, row in rows:
            self.own_ids[number] = own_id(row)
            if left_out is not None and left_out.has_row(number, self.own_ids[number]):
                continue
            try:
                asked = source.samples(row, number)
            except Unreadable as fault:
                self.unreadable.append(fault)
                continue
            self.samples += [self._kept(names.unique(one, number), number) for one in asked]
            self.numbers += [number] * len(asked)
        self.repeated = list(names.repeated)
        if not self.samples:
            raise UserError(
                f"{quoted(self.path)} holds no row that can be read. "
                + (str(self.unreadable[0]) if self.unreadable else "Name one with conversations.")
            )

    def _kept(self, sample: Sample, number: int) -> Sample:
        """What is kept in memory of a ``sample`` that has been read."""
        return sample

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> LoadedSample:
        return self.source.loaded(self.samples[index], self.numbers[index])

    @property
    def rows(self) -> int:
        """How many samples there are, with those rows that cannot be read."""
        return len(self.samples) + len(self.unreadable)

    def missing(self) -> Iterator[Unreadable]:
        """The samples that name an image file which is not there, without opening any."""
        seen: dict[Path, bool] = {}
        for number, sample in zip(self.numbers, self.samples):
            for image in sample.images:
                if not isinstance(image, Path):
                    continue
                if image not in seen:
                    seen[image] = is_file(image)
                if not seen[image]:
                    yield self.source.missing(sample, image, number)
                    break

    @property
    def lengths(self) -> list[int]:
        """How long each sample is, about: characters, and an image as much as a long text."""
        return [
            sum(map(len, s.texts)) + IMAGE_LENGTH * len(s.images) for s in self.samples
        ]

    @property
    def question_types(self) -> tuple[str, ...]:
        """The question types that occur, sorted."""
        return tuple(sorted({sample.question_type for sample in self.samples}))


def conversation_file(path: Path) -> Path:
    """``path`` itself, or the one JSON file in that folder; refuses what does not exist."""
    if not os.path.isdir(path):
        if not is_file(path):
            raise UserError(
                f"There is no conversation file {quoted(path)}. Give the path of a LLaVA-style "
                "JSON file; the embedded data are written by 'make data', or 'python -m "
                "data.generate --help'."
            )
        return path
    found = sorted(file for kind in JSON for file in path.glob(f"*{kind}"))
    if len(found) != 1:
        listed = ", ".join(quoted(file.name) for file in found[:8])
        raise UserError(
            f"The folder {quoted(path)} holds {len(found)} JSON files{f' ({listed})' * bool(found)}"
            ", so it is unclear which one has the conversations. Name the file itself."
        )
    return found[0]


class Names:
    """Makes ids unique, in the order in which samples come; ``repeated`` are those that came again.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.repeated: dict[str, None] = {}

    def unique(self, sample: Sample, number: int) -> Sample:
        """``sample``, with the ``number`` of its row in its id if that was there before."""
        name = sample.id
        if name in self._seen:
            self.repeated[name] = None
        while name in self._seen:
            name += f" (row {number})"
        self._seen.add(name)
        return sample if name == sample.id else replace(sample, id=name)
