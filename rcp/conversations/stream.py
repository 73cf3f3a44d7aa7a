"""A Hugging Face data set read in a stream: nothing of it is looked through or kept beforehand."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from rcp.conversations.leave_out import LeftOut
from rcp.conversations.rows import own_id
from rcp.conversations.sample import LoadedSample, Sample
from rcp.conversations.splits import TRAIN, is_table
from rcp.conversations.table import Table
from rcp.conversations.unreadable import Candidates, Draft
from rcp.errors import UserError
from rcp.quoting import plain, quoted

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class StreamedRow:
    """One row as it is stored, and its place: ``file`` and ``number`` in there, from 0; and which
    of its questions is meant."""

    file: int
    number: int
    values: dict[str, Any]
    question: int = 0

    @property
    def place(self) -> str:
        which = f" question {self.question + 1}" if self.question else ""
        return f"file {self.file} row {self.number}{which}"


class StreamedTable:
    """The rows of what :class:`~rcp.conversations.table.TableDataset` opens, in any number of
    shares.

    Every row is in one share, the same whatever the order, but for those of ``left_out``, which
    are in none. Where the number of ``files`` is a multiple of the number of shares, a share is
    made of whole files; else each share reads all files and keeps every n-th row. Raises
    ``UserError`` for what cannot be opened or read on.
    """

    def __init__(
        self,
        source: str,
        image_folder: str | Path | None = None,
        left_out: LeftOut | None = None,
        split: str = TRAIN,
        all_turns: bool = False,
    ) -> None:
        if not is_table(source):
            raise UserError(
                f"{quoted(source)} cannot be streamed. Give hf:NAME:SPLIT, or a folder of parquet "
                "or arrow files, or set data.streaming to false."
            )
        table = Table(source, image_folder, split, streaming=True, all_turns=all_turns)
        self.source = table.source
        self.path = table.source.path
        self.table = table.opened
        self.left_out = left_out
        self.files: int = self.table.num_shards

    def rows(
        self, share: int = 0, shares: int = 1, order: random.Random | None = None
    ) -> Iterator[StreamedRow]:
        """The rows of one share; ``order``, alike for all shares, mixes files."""
        by_file = self.files % shares == 0
        files = list(range(self.files))[share::shares] if by_file else list(range(self.files))
        if order is not None:
            order.shuffle(files)
        rows = (row for file in files for row in self._rows_of(file))
        return rows if by_file else islice(rows, share, None, shares)

    def read(self, row: StreamedRow, number: int | None = None) -> Sample:
        """The text of ``row``, checked.

        One without an id is called by its ``number`` among all rows, or else by its place.
        """
        name = f"file {row.file} row {row.number}" if number is None else None
        return self.source.samples(row.values, number, name)[row.question]

    def load(self, row: StreamedRow) -> LoadedSample:
        """``row`` with its images decoded; raises ``Unreadable`` if it cannot be read."""
        return self.source.loaded(self.read(row), None)

    def _rows_of(self, file: int) -> Iterator[StreamedRow]:
        number = 0
        try:
            # not by iterating over it, which would share the rows among workers a second time
            for columns in self.table.shard(self.files, file).iter(ROWS_AT_ONCE):
                for values in zip(*columns.values()):
                    row = StreamedRow(file, number, dict(zip(columns, values)))
                    number += 1
                    if not self._leaves_out(row):
                        questions = range(self.source.questions_in(row.values))
                        yield from (replace(row, question=at) for at in questions)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"File {file} of {self.files} of {quoted(self.path)}, counted from 0, cannot be "
                f"read on after {number} rows ({plain(error)}). Get the file anew."
            ) from error

    def _leaves_out(self, row: StreamedRow) -> bool:
        if self.left_out is None:
            return False
        return self.left_out.has_place(row.file, row.number, own_id(row.values))


class Waiting:
    """A row of a stream that is at hand, and those behind it, which are fetched when asked for."""

    def __init__(self, row: StreamedRow, rows: Iterator[StreamedRow]) -> None:
        self.row = row
        self._rows = rows
        self._next: Waiting | None = None

    def next(self) -> "Waiting":
        """The row behind this one, the same however often it is asked for."""
        if self._next is None:
            self._next = Waiting(next(self._rows), self._rows)
        return self._next

    def all(self) -> Iterator[StreamedRow]:
        """This row, and all behind it."""
        here = self
        while True:
            yield here.row
            here = here.next()


class TrainingStream(IterableDataset[Candidates]):
    """The samples of one process of ``ranks``, without end, each pass in another order.

    Each worker has a share of its own and passes over it again and again, so no process runs out
    of batches before the others do. Files come in an order made from ``seed`` and the number of
    the pass; ``held`` rows are kept to mix them further.

    ``batches_done`` tells how many batches of ``batch_size`` this process has trained on. With it
    a resumed stream goes on bit for bit where the batches ended, provided that there are as many
    processes and workers: the rows of its pass before that are read again, not decoded; of the
    passes before only the first one is, for its length.

    Each row is followed by those that may stand in for it in
    :class:`~rcp.conversations.unreadable.Filling`: the ones behind it.
    """

    def __init__(
        self,
        table: StreamedTable,
        batch_size: int,
        seed: int,
        batches_done: Callable[[], int],
        held: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.table = table
        self.batch_size = batch_size
        self.seed = seed
        self.batches_done = batches_done
        self.held = held
        self.rank = rank
        self.ranks = ranks

    def __iter__(self) -> Iterator[Candidates]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        done = self.batches_done()
        # workers give a batch in turn, the first one first: here it goes on for the one whose turn
        # it would have been
        turn = (done + worker) % workers
        earlier = len(range(turn, done, workers)) * self.batch_size
        rows = self._passes(self.rank * workers + turn, self.ranks * workers, earlier)
        here = Waiting(next(rows), rows)
        while True:
            yield map(self._draft, here.all())
            here = here.next()

    def _draft(self, row: StreamedRow) -> Draft:
        own = own_id(row.values)
        name = row.place if own is None else f"{own} ({row.place})"
        return Draft(name, lambda: self.table.load(row))

    def _passes(self, share: int, shares: int, earlier: int) -> Iterator[StreamedRow]:
        """The rows of all passes over a share, but for the first ``earlier`` ones."""
        number = 0
        while True:
            rows = self.table.rows(share, shares, random.Random(f"{self.seed} {number}"))
            draws = random.Random(f"{self.seed} {number} {share}")
            length = 0
            for length, row in enumerate(mixed(rows, self.held, draws), 1):
                if length > earlier:
                    yield row
            if not length:
                raise UserError(
                    f"{quoted(self.table.path)} has no row for share {share} of {shares}. Use "
                    "fewer processes or data.num_workers."
                )
            # a share is as long in every pass: what is left of the earlier ones need not be read
            number, earlier = (number + 1, 0) if earlier < length else divmod(earlier, length)


def mixed(rows: Iterator[StreamedRow], held: int, draws: random.Random) -> Iterator[StreamedRow]:
    """``rows`` in another order: each takes the place of one of ``held`` that were waiting."""
    waiting = list(islice(rows, held))
    for row in rows:
        place = draws.randrange(held)
        waiting[place], row = row, waiting[place]
        yield row
    draws.shuffle(waiting)
    yield from waiting
