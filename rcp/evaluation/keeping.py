"""Where answers go as soon as they are given, and whence they are had again when all are there."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from rcp.evaluation.answers import AnsweredBatch


class Keeping(Protocol):
    """Answered batches, by number. ``wants_places``: also where the visual tokens lie."""

    wants_places: bool

    def missing(self, count: int) -> Sequence[int]:
        """Those of ``count`` batches that are yet to be answered, here."""

    def add(self, number: int, batch: AnsweredBatch) -> None:
        """Keep one of them."""

    def all(self, count: int) -> Iterable[AnsweredBatch]:
        """All ``count`` of them, in order."""


class InMemory(Keeping):
    """For those who need no more of the answers than what is counted of them."""

    wants_places = False

    def __init__(self) -> None:
        self.batches: dict[int, AnsweredBatch] = {}

    def missing(self, count: int) -> Sequence[int]:
        return range(count)

    def add(self, number: int, batch: AnsweredBatch) -> None:
        self.batches[number] = batch

    def all(self, count: int) -> Iterable[AnsweredBatch]:
        return (self.batches[number] for number in range(count))
