"""The parts of a GPU run, as data."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Where a run works.

    ``output`` keeps a folder a part; ``scratch`` is fast and gone after the run, for weights of a
    base that nobody keeps. ``tiny``: on a CPU, with sizes that only show that everything runs.
    """

    output: Path
    scratch: Path
    tiny: bool

    def folder(self, part: str) -> Path:
        return self.output / part


SLOWER = 5
"""How much longer a part may take in small, on a CPU that others may be using."""


@dataclass(frozen=True)
class Part:
    """One measurement in a process of its own.

    ``arguments`` of the Python interpreter, and ``tiny`` in their place on a CPU; parts without
    ``tiny`` are modules of this package, and take what :mod:`benchmarks.gpu.measuring` parses.
    ``seconds``: its timeout. ``alone``: it measures time or memory, so that nothing may run beside
    it. ``module``: what it needs of the repository.
    """

    name: str
    about: str
    seconds: int
    arguments: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    alone: bool = False
    module: str | None = None

    def command(self, places: Places) -> list[str]:
        """The whole command line."""
        if self.arguments:
            return [sys.executable, *(self.tiny if places.tiny else self.arguments)]
        return [
            *(sys.executable, "-m", f"benchmarks.gpu.{self.name}"),
            *("--output", str(places.folder(self.name)), "--scratch", str(places.scratch)),
            *(("--tiny",) if places.tiny else ()),
        ]

    def patience(self, places: Places) -> int:
        """Its timeout there: on a CPU, where everything is in small, nothing is to end in time."""
        return self.seconds * (SLOWER if places.tiny else 1)

    def shown(self, tiny: bool) -> str:
        """A command that measures this part again, wherever it is given."""
        if self.arguments:
            return shlex.join(["python", *(self.tiny if tiny else self.arguments)])
        return f"python -m benchmarks.gpu --parts {self.name}{' --tiny' if tiny else ''}"

    @property
    def is_there(self) -> bool:
        return self.module is None or find_spec(self.module) is not None


GPU_TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
OPERATIONS = ("-m", "tests.cuda_ops", "--device")

PARTS = (
    Part("tests", "tests that need a GPU", 190, GPU_TESTS, (*GPU_TESTS, "--collect-only")),
    Part("operations", "operations that every method asks of the device", 190,
         (*OPERATIONS, "cuda", "--seen"), (*OPERATIONS, "cpu"), module="tests.cuda_ops"),
    Part("parity", "methods and families on the device against the CPU", 190),
    Part("quickstart", "the quickstart's data, training, export and evaluation", 190),
    Part("base_7b", "random weights of LLaVA-1.5-7B's shape, for the part after it", 190),
    Part("training_7b", "training of that base by each strategy, resumed and exported", 260,
         alone=True),
    Part("speed", "prefill and decoding at that shape", 90, alone=True),
    Part("compiled", "the same with the decoder compiled", 60, alone=True),
)
"""In the order in which those that run alone do; the others run first, side by side."""

LIMIT = 600
"""Seconds that all parts take at most."""


def longest(parts: Sequence[Part]) -> int:
    """Seconds that ``parts`` take if each is stopped by its timeout."""
    beside = max((part.seconds for part in parts if not part.alone), default=0)
    return beside + sum(part.seconds for part in parts if part.alone)
