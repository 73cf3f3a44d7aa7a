"""Samples that cannot be read: the one place where others stand in for them, or they are left out.

A sample is unreadable where its row tells no conversation (:mod:`rcp.conversations.rows`), where an
image cannot be opened (:mod:`rcp.conversations.images`), or where the processor refuses it or makes
too many tokens of it (:mod:`rcp.conversations.collator`). Each says so by ``Unreadable``; whoever
makes a batch, makes it here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch.utils.data import Dataset

from rcp.conversations.collator import Batch, ConversationCollator
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.sample import LoadedSample, Skipped, TooLong, Unfit, Unreadable
from rcp.errors import UserError

IN_A_ROW = 1000
"""So many samples without a readable one among them are no accident."""


@dataclass(frozen=True)
class Draft:
    """A sample that is yet to be loaded, and what tells it from every other one."""

    name: str
    load: Callable[[], LoadedSample]


Candidates = Iterable[Draft]
"""Where a batch wants a sample: the one that belongs there, and those that may stand in for it."""


class WithStandIns(Dataset[Candidates]):
    """The samples of ``dataset``, each followed by those after it, and after the last the first."""

    def __init__(self, dataset: ConversationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Candidates:
        return (self._draft((index + step) % len(self)) for step in range(len(self)))

    def _draft(self, index: int) -> Draft:
        return Draft(self.dataset.samples[index].id, lambda: self.dataset[index])


class Filling:
    """Makes batches of candidates, as the ``collate_fn`` of a data loader.

    Batches so keep their size, in every process alike. What was passed over is noted in the batch,
    which is how it gets out of the workers. Raises ``UserError`` where nothing can be read.
    """

    def __init__(self, collate: ConversationCollator) -> None:
        self.collate = collate

    def __call__(self, wanted: Sequence[Candidates]) -> Batch:
        tried = Tried()
        seats = [Seat(iter(candidates)) for candidates in wanted]
        while True:
            items = [seat.filled(tried) for seat in seats]
            try:
                batch = self.collate(items)
            except Unfit as error:
                for number, fault in error.faults.items():
                    tried.faults[seats[number].draft.name] = fault
                continue
            batch["skipped"] = [skipped for seat in seats for skipped in seat.skipped]
            batch["own"] = [not seat.skipped for seat in seats]
            return batch


@dataclass
class Tried:
    """What came of the drafts that a batch has tried, by name."""

    loaded: dict[str, LoadedSample] = field(default_factory=dict)
    faults: dict[str, Unreadable] = field(default_factory=dict)

    def load(self, draft: Draft) -> LoadedSample | None:
        """The sample, None if it cannot be read; tries each once."""
        if draft.name not in self.faults and draft.name not in self.loaded:
            try:
                self.loaded[draft.name] = draft.load()
            except Unreadable as fault:
                self.faults[draft.name] = fault
        return None if draft.name in self.faults else self.loaded[draft.name]


class Seat:
    """One place while a batch is made: ``draft`` sits there, after all ``skipped`` ones."""

    def __init__(self, candidates: Iterator[Draft]) -> None:
        self.candidates = candidates
        self.skipped: list[Skipped] = []
        self.draft = next(candidates)

    def filled(self, tried: Tried) -> LoadedSample:
        """The first of those that are left which can be read."""
        while (found := tried.load(self.draft)) is None:
            fault = tried.faults[self.draft.name]
            self.skipped.append(Skipped(self.draft.name, str(fault), isinstance(fault, TooLong)))
            following = next(self.candidates, None)
            if following is None or len(self.skipped) == IN_A_ROW:
                raise UserError(
                    f"None of {len(self.skipped)} samples that follow each other can be read. "
                    f"{self.skipped[0].why}"
                )
            self.draft = following
        return found


class Read(NamedTuple):
    """The ``items`` that can be read, their ``batch`` (None of nothing), and the other ones."""

    items: list[LoadedSample]
    batch: Batch | None
    faults: list[Unreadable]


def read(
    dataset: ConversationDataset, numbers: Iterable[int], collate: ConversationCollator
) -> Read:
    """Those samples of ``dataset`` that can be read, without others in the places of the rest."""
    items, faults = [], []
    for number in numbers:
        try:
            items.append(dataset[number])
        except Unreadable as fault:
            faults.append(fault)
    while items:
        try:
            return Read(items, collate(items), faults)
        except Unfit as error:
            faults += error.faults.values()
            items = [item for number, item in enumerate(items) if number not in error.faults]
    return Read([], None, faults)


def first_rows(
    dataset: ConversationDataset, limit: int | None
) -> tuple[range, list[Unreadable]]:
    """Of the first ``limit`` rows the numbers of the samples, and those without a sound text."""
    places = sorted([*dataset.numbers, *(fault.row or 0 for fault in dataset.unreadable)])[:limit]
    faults = [fault for fault in dataset.unreadable if (fault.row or 0) <= places[-1]]
    return range(len(places) - len(faults)), faults
