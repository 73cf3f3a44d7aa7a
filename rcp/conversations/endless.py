"""Questions that are made as training goes: no file holds them, and they have no end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar

from torch.utils.data import IterableDataset, get_worker_info

from rcp.conversations.sample import LoadedSample
from rcp.conversations.unreadable import Candidates, Draft

MAKERS: dict[str, type["MadeQuestions"]] = {}
"""By the names that ``data.train`` calls them; whoever imports a class enters it."""


class MadeQuestions(ABC):
    """Samples numbered from 0, without end: what a number gives follows from it and ``seed`` alone.

    A subclass names itself in ``name``. Its samples' images are paths to nothing.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        MAKERS[cls.name] = cls

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.path = Path(self.name)

    @abstractmethod
    def __getitem__(self, number: int) -> LoadedSample: ...


class NumberedStream(IterableDataset[Candidates]):
    """The share of one process of ``ranks`` in the samples of ``questions``, in their order.

    The batches of all processes together are the next samples each time, and a batch is made whole
    by one worker: so the samples of a step are the same however many processes share them, and
    whatever the number of workers. ``batches_done`` tells how many batches of ``batch_size`` this
    process has trained on; a resumed stream goes on behind them.
    """

    def __init__(
        self,
        questions: MadeQuestions,
        batch_size: int,
        batches_done: Callable[[], int],
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.questions = questions
        self.batch_size = batch_size
        self.batches_done = batches_done
        self.rank = rank
        self.ranks = ranks

    def __iter__(self) -> Iterator[Candidates]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        together = self.batch_size * self.ranks
        for batch in count(self.batches_done() + worker, workers):
            for number in range(batch * together, (batch + 1) * together)[self.rank :: self.ranks]:
                yield map(self._draft, count(number))

    def _draft(self, number: int) -> Draft:
        return Draft(str(number), lambda: self.questions[number])
