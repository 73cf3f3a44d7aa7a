"""One mutant in a forked child: the package is imported anew, with the error in one module."""

import functools
import importlib.util
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant, mutated

OURS = ("rcp", "benchmarks", "data", "tests", "conftest", "train", "export", "evaluate")
PATIENCE = 10
LONGEST = 600
"""Seconds of a processor for one test file."""


def warm_up(tests: list[str]) -> None:
    """Import all that ``tests`` need, then forget what is ours: a child has only that to read."""
    for test in tests:
        importlib.import_module(test.removesuffix(".py").replace("/", "."))
    _forget_ours()


def catches(test: str, mutant: Mutant) -> bool:
    """Whether the test file ``test``, which passes as things are, fails with ``mutant`` in."""
    return not tried(test, limit_of(test), mutant)[0]


@functools.cache
def limit_of(test: str) -> int:
    """The seconds that ``test`` may take with an error in, which may make it endless."""
    passed, seconds = tried(test, LONGEST)
    if not passed:
        raise SystemExit(f"{test} fails without any error put in: mend it first.")
    return math.ceil(3 * seconds)


def tried(test: str, limit: int, mutant: Mutant | None = None) -> tuple[bool, float]:
    """Whether the test file ``test`` passes, with ``mutant`` in, and its seconds.

    These are a processor's, in which others have no part. It may take ``limit`` of them, and
    :data:`PATIENCE` times as long by the clock.
    """
    substitute = None if mutant is None else Substitute(Path(mutant.file), mutated(mutant))
    child = os.fork()
    if child == 0:
        os.setsid()  # what the tests start ends with them
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            code = _tested(test, substitute)
        finally:
            os._exit(code)
    return _waited_for(child, limit * PATIENCE)


def _tested(test: str, substitute: "Substitute | None") -> int:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    _forget_ours()
    if substitute is not None:
        sys.meta_path.insert(0, substitute)
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", test])


def _waited_for(child: int, limit: float) -> tuple[bool, float]:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code == pytest.ExitCode.OK, used.ru_utime + used.ru_stime
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False, limit


def _forget_ours() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in OURS and not name.startswith("tests.mutation"):
            del sys.modules[name]


class Substitute:
    """Finds and loads the module of ``file``, from ``source`` in its place."""

    def __init__(self, file: Path, source: str) -> None:
        parts = file.with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.file = file
        self.source = source

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        found = importlib.util.spec_from_file_location(name, self.file.absolute(), loader=self)
        if self.file.name == "__init__.py":
            found.submodule_search_locations = [str(self.file.absolute().parent)]
        return found

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        exec(compile(self.source, str(self.file.absolute()), "exec"), module.__dict__)
