"""Parts as processes: each with a log, a timeout and an end, whatever becomes of the others."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.parts import Part, Places
from rcp.errors import UserError

LOG = "log.txt"
ROOT = Path(__file__).parents[2]
PAUSE = 0.2
"""Seconds between two looks at the running processes."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended: ``status`` is ok, failed, timed out or skipped."""

    part: Part
    status: str
    seconds: float


def run_parts(parts: Sequence[Part], places: Places) -> list[Outcome]:
    """All ``parts``: first those that may run side by side, then one after the other."""
    outcomes = [Outcome(part, "skipped", 0.0) for part in parts if not part.is_there]
    there = [part for part in parts if part.is_there]
    outcomes += _side_by_side([part for part in there if not part.alone], places)
    for part in there:
        if part.alone:
            outcomes += _side_by_side([part], places)
    return sorted(outcomes, key=lambda outcome: parts.index(outcome.part))


def _side_by_side(parts: Sequence[Part], places: Places) -> Iterator[Outcome]:
    """Each part as it ends; what still runs when an exception ends this is stopped."""
    # in small there is little to share, and threads that wait for a busy core take minutes
    threads = 1 if places.tiny else max(1, (os.cpu_count() or 1) // max(1, len(parts)))
    running = [_Running(part, places, threads) for part in parts]
    try:
        while running:
            for one in list(running):
                outcome = one.outcome()
                if outcome is not None:
                    running.remove(one)
                    print(f"{outcome.part.name}: {outcome.status}, {outcome.seconds:.0f} s",
                          flush=True)
                    yield outcome
            time.sleep(PAUSE)
    finally:
        for one in running:
            one.stop()


class _Running:
    """The process of one part, and of whatever it starts: a group of its own."""

    def __init__(self, part: Part, places: Places, threads: int) -> None:
        self.part = part
        self.patience = part.patience(places)
        folder = _emptied(places.folder(part.name))
        self.began = time.monotonic()
        with (folder / LOG).open("w") as log:
            self.process = subprocess.Popen(
                part.command(places),
                cwd=ROOT,
                env={"OMP_NUM_THREADS": str(threads), **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs. Past its timeout it is stopped."""
        seconds = time.monotonic() - self.began
        code = self.process.poll()
        if code is None and seconds < self.patience:
            return None
        self.stop()
        status = "timed out" if code is None else "failed" if code else "ok"
        return Outcome(self.part, status, seconds)

    def stop(self) -> None:
        """End the group: also what a process that is gone has left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _emptied(folder: Path) -> Path:
    """``folder``, new; one of an earlier run goes, anything else stays and is refused."""
    if folder.exists() and not (folder / LOG).is_file():
        raise UserError(f"'{folder}' is not of an earlier run. Name another folder by --output.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
