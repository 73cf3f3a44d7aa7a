"""What the command lines of benchmarks that train have in common."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rcp.errors import UserError

RESULTS = Path(__file__).parent / "results"


def parser(name: str, about: str | None, runs: str) -> argparse.ArgumentParser:
    """Options of `python -m benchmarks.NAME`: where runs, data and results lie, and further
    arguments of the scripts."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--runs", type=Path, default=Path(runs), help="where training runs are kept")
    add("--data", type=Path, default=Path("runs/data/test"), help="test questions")
    add("--train", type=str.split, default=[], help="further arguments of train.py, in one string")
    add("--evaluate", type=str.split, default=[], help="further arguments of evaluate.py, likewise")
    return made


def variants_parser(
    name: str, about: str | None, recipe: str, output: str, rows: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Likewise for variants of one ``recipe``, of which those called ``rows`` can be picked."""
    made = parser(name, about, f"runs/{name}")
    add = made.add_argument
    if rows:
        add("--rows", nargs="+", choices=rows, default=rows, metavar="NAME",
            help=f"only these: {', '.join(rows)}")
    add("--recipe", default=recipe, help="configuration in configs/ that is varied")
    add("--seeds", type=int, default=3, help="at most this many a row")
    add("--limit", type=int, default=600, help="how many of the test questions")
    add("--output", type=Path, default=RESULTS / output, help="where results go")
    return made


def exit_status(name: str, work: Callable[[], None]) -> int:
    """0 once ``work`` is done, 2 for input at fault, or the status of the step that failed."""
    try:
        work()
    except UserError as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode  # the step has said why
    return 0
