"""``python -m tests.mutation [ROOM ...]``: put errors in, run the tests, say which were caught.

What was caught stays caught in ``runs/mutation.json``, so that an interrupted run goes on; what
survived is tried again, with the tests that have come since. The score of all rooms is recorded
as ``benchmarks/results/mutation.{json,md}``.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.environment import environment
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.relevant import OF_ALL, OF_ROOM
from tests.mutation.runner import catches, warm_up
from tests.mutation.score import ENOUGH, page, score

VERDICTS = Path("runs/mutation.json")
RECORD = Path("benchmarks/results/mutation.json")


def sample(rooms: Iterable[str], size: int) -> dict[str, list[Mutant]]:
    """Those in ``rooms`` of the ``size`` mutants of all rooms that are drawn first."""
    files = [file for room in OF_ROOM for file in sorted(Path(room).rglob("*.py"))]
    drawn = sorted((m for file in files for m in mutants(file)), key=lambda m: m.order)[:size]
    return {
        room: sorted(
            (m for m in drawn if m.file.startswith(f"{room}/")), key=lambda m: (m.file, m.line)
        )
        for room in OF_ROOM if room in rooms
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="such as rcp/repair; all of them")
    parser.add_argument("--sample", type=int, default=400, help="mutants of all rooms (400)")
    options = parser.parse_args()
    if unknown := sorted(set(options.rooms) - set(OF_ROOM)):
        parser.error(f"'{unknown[0]}' is no room with a list of tests: {', '.join(OF_ROOM)}.")
    VERDICTS.parent.mkdir(exist_ok=True)
    verdicts = json.loads(VERDICTS.read_text()) if VERDICTS.exists() else {}
    drawn = sample(options.rooms or OF_ROOM, options.sample)
    warm_up(sorted({test for room in OF_ROOM.values() for test in [*room, *OF_ALL]}))
    for room, errors in drawn.items():
        caught_by = Counter[tuple[str, str]]()
        for mutant in sorted(errors, key=lambda error: error.name in verdicts):  # the new first
            if verdicts.get(mutant.name) == "caught" or mutant.name in EQUIVALENT:
                continue
            begun, tests = time.monotonic(), nearest(mutant, room, caught_by)
            catcher = next((test for test in tests if catches(test, mutant)), None)
            caught_by[mutant.file, catcher or ""] += 1
            verdicts[mutant.name] = "survived" if catcher is None else "caught"
            seconds = time.monotonic() - begun
            print(f"{seconds:5.1f} s  {catcher or 'SURVIVED'}  {mutant.name}", flush=True)
            VERDICTS.write_text(json.dumps(verdicts, indent=1, sort_keys=True) + "\n")
    found = score(drawn, verdicts, EQUIVALENT)
    print(page(found))
    if set(drawn) == set(OF_ROOM):
        record(found, options.sample)
    return int(found["share_caught"] < ENOUGH)


def nearest(mutant: Mutant, room: str, caught_by: Counter[tuple[str, str]]) -> list[str]:
    """Its own test file and those of ``room``: first what caught others of this source."""
    stem = Path(mutant.file).stem
    own = [test for test in [f"tests/test_{stem}.py"] if Path(test).is_file()]
    tests = dict.fromkeys([*own, *OF_ROOM[room], *OF_ALL])
    return sorted(tests, key=lambda test: (-caught_by[mutant.file, test], stem not in test))


def record(found: dict, size: int) -> None:
    """Write ``found`` beside the results of benchmarks, with what it was made by."""
    made = environment(["python", "-m", "tests.mutation", "--sample", str(size)]) | {
        "drawn": f"the {size} mutants of all rooms whose names have the least SHA-256",
    }
    RECORD.write_text(json.dumps(made | found, indent=2) + "\n")
    facts = "\n".join(f"- {name}: {value}" for name, value in made.items())
    text = f"# Errors that the tests catch\n\n{facts}\n\n{page(found)}"
    RECORD.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    raise SystemExit(main())
