"""Conversations in a Hugging Face data set: memory-mapped, its images decoded when asked for."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcp.conversations.asked import AS_IT_STANDS, Reading
from rcp.conversations.layouts import READ
from rcp.conversations.leave_out import LeftOut
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.rows import Source
from rcp.conversations.sample import LoadedSample, Sample
from rcp.conversations.splits import PREFIX, TRAIN, Files, files_of
from rcp.errors import UserError
from rcp.quoting import plain, quoted

Row = dict[str, Any]

ROWS_AT_ONCE = 1000

CONFIGURED = re.compile(r"(\w[\w.-]*/\w[\w.-]*)/([^/]+)")
"""A name of the hub, which is OWNER/NAME, with one of its configurations behind it."""

HELD = b"held"
"""Stands for the bytes of an image while only text is read."""


class TableDataset(ConversationDataset):
    """A data set of ``datasets``: a folder that ``save_to_disk`` wrote, a parquet or arrow file
    or a folder of them, or ``hf:NAME`` or ``hf:NAME:SPLIT`` of the hub, where a configuration
    follows the name, as in ``hf:OWNER/NAME/CONFIGURATION:SPLIT``.

    Its columns are the fields of a row of :mod:`rcp.conversations.layouts`. Images are of the type
    Image, bytes, paths, or structs of both, one or a list. Text is read when the data set is
    opened, images stay on disk until their sample is asked for. ``split`` is the one meant where
    ``source`` is a folder of several and names none. ``reading`` as of the base class. Raises
    ``UserError`` for what cannot be.
    """

    def __init__(
        self,
        source: str,
        image_folder: str | Path | None = None,
        left_out: LeftOut | None = None,
        split: str = TRAIN,
        reading: Reading = AS_IT_STANDS,
        all_turns: bool = False,
    ) -> None:
        table = Table(source, image_folder, split, streaming=False, all_turns=all_turns)
        self.path = table.source.path
        self.table = table.opened.with_format("arrow")  # as it is stored: no image is decoded
        rows = enumerate(self._texts(reading.columns))
        self._read(rows, replace(table.source, reading=reading), left_out)

    def _kept(self, sample: Sample, number: int) -> Sample:
        return sample.without_bytes(number)

    def __getitem__(self, index: int) -> LoadedSample:
        number = self.numbers[index]
        (row,) = self.table[number].to_pylist()
        turn = len(self.samples[index].earlier)
        # all questions of a published row are about the same images
        sample = replace(self.source.samples(row, number)[turn], id=self.samples[index].id)
        return replace(self.source.loaded(sample, number), sample=self.samples[index])

    def _texts(self, whole: frozenset[str]) -> Iterator[Row]:
        """The rows without the bytes of their images, which are not read for it.

        Of them the columns ``whole`` as they are, and those that may tell something.
        """
        schema = self.table.features.arrow_schema
        known = [
            name
            for name in schema.names
            if name in READ or name in whole or _may_tell(schema.field(name).type)
        ]
        for batch in self.table.select_columns(known).iter(ROWS_AT_ONCE):
            parts = {name: batch.column(name).combine_chunks() for name in known}
            held = [
                (part if name in whole else _hollow(part)).to_pylist()
                for name, part in parts.items()
            ]
            yield from (dict(zip(known, values)) for values in zip(*held))


def column_by(key: str, column: str, source: str) -> dict[Any, Any]:
    """The values of ``column`` as they are stored, by those of ``key``, in the table ``source``.

    All are held in memory. Raises ``UserError`` for what cannot be opened or lacks either.
    """
    table = Table(source, None, TRAIN, streaming=False).opened.with_format("arrow")
    if missing := {key, column} - set(table.column_names):
        raise UserError(
            f"{quoted(source)} has no column {quoted(missing.pop())}, but {table.column_names}. "
            "Name the table that has it."
        )
    return {row[key]: row[column] for row in table[:].select([key, column]).to_pylist()}


class Table:
    """What ``source`` names, ``opened`` by ``datasets``: mapped, or ``streaming`` with its images
    as they are stored.

    Raises ``UserError`` if it cannot be opened.
    """

    def __init__(
        self,
        source: str,
        image_folder: str | Path | None,
        split: str,
        streaming: bool,
        all_turns: bool = False,
    ) -> None:
        import datasets

        folder = None if image_folder is None else Path(image_folder)
        try:
            if source.startswith(PREFIX):
                self.opened = datasets.load_dataset(**_of_hub(source), streaming=streaming)
                self.source = Source(Path(source), folder or Path(), all_turns=all_turns)
            else:
                files = files_of(source, split)
                self.opened = _local(files, streaming)
                inside = files.path if os.path.isdir(files.path) else files.path.parent
                self.source = Source(files.path, folder or inside, all_turns=all_turns)
            if streaming:
                # opened by us, so that an image that cannot be does not end the stream
                self.opened = self.opened.decode(False)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"The data set {quoted(source)} cannot be opened ({plain(error)}). Give a folder "
                "that save_to_disk wrote, a parquet or arrow file or a folder of them, or "
                "hf:NAME:SPLIT."
            ) from error


def _of_hub(source: str) -> dict[str, Any]:
    named, _, split = source.removeprefix(PREFIX).partition(":")
    if not named:
        raise ValueError("it has no name")
    configured = CONFIGURED.fullmatch(named)
    if configured is None or os.path.isdir(named):
        return {"path": named, "split": split or TRAIN}
    return {"path": configured[1], "name": configured[2], "split": split or TRAIN}


def _local(files: Files, streaming: bool) -> Any:
    import datasets

    if files.saved is not None and not streaming:
        return datasets.load_from_disk(str(files.saved))
    kind = files.files[0].suffix.removeprefix(".")
    names = [str(file) for file in files.files]
    return datasets.load_dataset(kind, data_files=names, split=TRAIN, streaming=streaming)


def _may_tell(kind: Any) -> bool:
    """Whether values of this Arrow type can be text or images, or hold any."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_may_tell(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _may_tell(kind.value_type)
    return not (pa.types.is_floating(kind) or pa.types.is_nested(kind))


def _hollow(column: Any) -> Any:
    """An Arrow array with ``HELD`` in the place of bytes, wherever they lie in it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        empty = pc.equal(pc.binary_length(column), 0)
        held = pc.if_else(empty, pa.scalar(b"", kind), pa.scalar(HELD, kind))
        return pc.if_else(pc.is_valid(column), held, pa.scalar(None, kind))
    if pa.types.is_struct(kind):
        inside = [_hollow(part) for part in column.flatten()]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(inside, names=names, mask=column.is_null())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        made = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        offsets = pc.add(column.offsets, 0)  # a copy: of a slice, no mask is taken
        return made.from_arrays(offsets, _hollow(column.values), mask=column.is_null())
    return column
