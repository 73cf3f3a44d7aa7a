"""The folder beside an output that holds what has been answered so far, to go on from."""

import logging
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rcp.base_model.fingerprint import record, that_differ
from rcp.errors import UserError
from rcp.evaluation import part_files
from rcp.evaluation.answers import AnsweredBatch
from rcp.evaluation.keeping import Keeping
from rcp.evaluation.share import Share

logger = logging.getLogger(__name__)

FINGERPRINT = "asked.json"
POLL = 0.2
"""Seconds between two looks at what other processes have done."""


class Unfinished:
    """``folder`` with a file for each batch that has been answered, written whole or not at all.

    ``fingerprint`` says what is asked, of whom and how. Raises ``UserError`` where the folder holds
    answers to anything else, by the names in which that differs. Several processes share it, each
    of which answers its ``share`` of the batches.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, str], share: Share) -> None:
        self.folder = folder
        self.share = share
        path = folder / FINGERPRINT
        if not any(folder.glob(f"*{part_files.SUFFIX}")):
            record(path, fingerprint)  # of a run that came to nothing another one may lie there
        elif different := that_differ(path, fingerprint):
            raise UserError(
                f"'{folder}' holds answers of an evaluation that was not finished, whose "
                f"{' and '.join(different)} differ from this one's. Repeat that command to finish "
                "it, name another --output, or remove that folder."
            )

    def round(self, name: str) -> Keeping:
        """Where the batches of the round ``name`` go."""
        return Round(self.folder, name, self.share)

    def remove(self) -> None:
        """Of no use any more: all of it is in the results."""
        shutil.rmtree(self.folder, ignore_errors=True)  # others may still be leaving it


class Round(Keeping):
    """Batches of one round: ``name`` and the number of each are its file's."""

    wants_places = True

    def __init__(self, folder: Path, name: str, share: Share) -> None:
        self.folder = folder
        self.name = name
        self.share = share

    def missing(self, count: int) -> Sequence[int]:
        return [n for n in self.share.of(range(count)) if not os.path.isfile(self._path(n))]

    def add(self, number: int, batch: AnsweredBatch) -> None:
        part_files.write(batch, self._path(number))

    def all(self, count: int) -> Iterable[AnsweredBatch]:
        paths = [self._path(number) for number in range(count)]
        for path in paths:
            self._await(path, paths)
            yield part_files.read(path)

    def _await(self, path: Path, among: Sequence[Path]) -> None:
        """Return when another process has written ``path``, if it has not yet."""
        if os.path.isfile(path):
            return
        there = sum(map(os.path.isfile, among))
        logger.warning(
            "Waiting for other processes: %d of %d batches are in '%s'",
            there, len(among), self.folder,
        )
        while not os.path.isfile(path):
            time.sleep(POLL)

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06}{part_files.SUFFIX}"
