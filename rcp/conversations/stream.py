"""A Hugging Face data set read in a stream: nothing of it is looked through or kept beforehand."""

import random
from collections.abc import Callable, Iterator
from itertools import count, islice, repeat
from pathlib import Path

from torch.utils.data import IterableDataset, get_worker_info

from rcp.conversations import LoadedSample, Sample
from rcp.conversations.table import Row, image_column, is_table, open_table, sample_of, with_images
from rcp.errors import UserError

ROWS_AT_ONCE = 16
UNREADABLE_IN_A_ROW = 1000
"""So many samples without a readable one among them are no accident."""


class StreamedTable:
    """The rows of what :class:`~rcp.conversations.table.TableDataset` opens, in any number of
    shares.

    Every row is in one share, the same whatever the order. Where the number of ``files`` is a
    multiple of the number of shares, a share is made of whole files; else each share reads all
    files and keeps every n-th row. Raises ``UserError`` for what cannot be opened or read on.
    """

    def __init__(self, source: str) -> None:
        if not is_table(source):
            raise UserError(
                f"'{source}' cannot be streamed. Give hf:NAME:SPLIT, or a folder of parquet or "
                "arrow files, or set data.streaming to false."
            )
        self.path = Path(source)
        self.table = open_table(source, streaming=True)
        self.image_column = image_column(self.table.column_names)
        self.files: int = self.table.num_shards

    def rows(
        self, share: int = 0, shares: int = 1, order: random.Random | None = None
    ) -> Iterator[Row]:
        """The rows of one share, each with an id; ``order``, alike for all shares, mixes files."""
        by_file = self.files % shares == 0
        files = list(range(self.files))[share::shares] if by_file else list(range(self.files))
        if order is not None:
            order.shuffle(files)
        rows = (row for file in files for row in self._rows_of(file))
        return rows if by_file else islice(rows, share, None, shares)

    def read(self, row: Row) -> Sample:
        """The text of ``row``, checked."""
        return sample_of(row, 0, self.image_column, self.path)

    def load(self, row: Row) -> LoadedSample:
        """``row`` with its images decoded; raises ``UserError`` if it cannot be read."""
        from datasets import Image

        def fetch() -> object:
            found = row[self.image_column] if self.image_column else None
            if isinstance(found, list):
                return [Image().decode_example(image) for image in found]
            return None if found is None else Image().decode_example(found)

        return with_images(self.read(row), fetch, self.path)

    def _rows_of(self, file: int) -> Iterator[Row]:
        number = count()
        try:
            # not by iterating over it, which would share the rows among workers a second time
            for columns in self.table.shard(self.files, file).iter(ROWS_AT_ONCE):
                for values in zip(*columns.values()):
                    row = dict(zip(columns, values))
                    name = f"file {file} row {next(number)}"
                    yield row | ({"id": name} if row.get("id") is None else {})
        except (OSError, ValueError) as error:
            raise UserError(
                f"File {file} of {self.files} of '{self.path}', counted from 0, cannot be read on "
                f"after {next(number)} rows ({' '.join(str(error).split())}). Get the file anew."
            ) from error


class TrainingStream(IterableDataset[LoadedSample]):
    """The samples of one process of ``ranks``, without end, each pass in another order.

    Each worker has a share of its own and passes over it again and again, so no process runs out
    of batches before the others do. Files come in an order made from ``seed`` and the number of
    the pass; ``held`` rows are kept to mix them further.

    ``batches_done`` tells how many batches of ``batch_size`` this process has trained on. With it
    a resumed stream goes on bit for bit where the batches ended, provided that there are as many
    processes and workers: the rows of its pass before that are read again, not decoded; of the
    passes before only the first one is, for its length.

    In the place of a sample that cannot be read stands the next one that can, with a note of what
    it stands for, as in :class:`~rcp.conversations.unreadable.PassingOver`.
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

    def __iter__(self) -> Iterator[LoadedSample]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        done = self.batches_done()
        # workers give a batch in turn, the first one first: here it goes on for the one whose turn
        # it would have been
        turn = (done + worker) % workers
        earlier = len(range(turn, done, workers)) * self.batch_size
        share, shares = self.rank * workers + turn, self.ranks * workers
        return self._readable(self._passes(share, shares, earlier))

    def _passes(self, share: int, shares: int, earlier: int) -> Iterator[Row]:
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
                    f"'{self.table.path}' has no row for share {share} of {shares}. Use fewer "
                    "processes or data.num_workers."
                )
            # a share is as long in every pass: what is left of the earlier ones need not be read
            number, earlier = (number + 1, 0) if earlier < length else divmod(earlier, length)

    def _readable(self, rows: Iterator[Row]) -> Iterator[LoadedSample]:
        """As many samples as rows."""
        skipped: list[tuple[str, str]] = []
        for row in rows:
            try:
                item = self.table.load(row)
            except UserError as error:
                skipped.append((str(row["id"]), str(error)))
                if len(skipped) == UNREADABLE_IN_A_ROW:
                    raise UserError(
                        f"None of {len(skipped)} samples of '{self.table.path}' that follow each "
                        f"other can be read. {skipped[0][1]}"
                    ) from error
                continue
            loaded = LoadedSample(item.sample, item.images, tuple(skipped))
            yield from repeat(loaded, len(skipped) + 1)
            skipped = []


def mixed(rows: Iterator[Row], held: int, draws: random.Random) -> Iterator[Row]:
    """``rows`` in another order: each takes the place of one of ``held`` that were waiting."""
    waiting = list(islice(rows, held))
    for row in rows:
        place = draws.randrange(held)
        waiting[place], row = row, waiting[place]
        yield row
    draws.shuffle(waiting)
    yield from waiting
