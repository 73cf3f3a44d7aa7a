"""``python -m tests.mutation [ROOM ...]``: put errors in, run the tests, say which were caught.

What was caught stays caught in ``runs/mutation.json``, so that an interrupted run goes on; what
survived is tried again, with the tests that have come since.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.relevant import OF_ALL, OF_ROOM
from tests.mutation.runner import passes, warm_up

RESULTS = Path("runs/mutation.json")


def sample(rooms: Iterable[str], size: int) -> list[Mutant]:
    """The ``size`` mutants of all rooms that are drawn first, of which those in ``rooms``."""
    files = [file for room in OF_ROOM for file in sorted(Path(room).rglob("*.py"))]
    drawn = sorted((m for file in files for m in mutants(file)), key=lambda m: m.order)[:size]
    chosen = [m for m in drawn if any(m.file.startswith(f"{room}/") for room in rooms)]
    return sorted(chosen, key=lambda m: (list(OF_ROOM).index(room_of(m)), m.file, m.line))


def room_of(mutant: Mutant) -> str:
    return next(room for room in OF_ROOM if mutant.file.startswith(f"{room}/"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="such as rcp/repair; all of them")
    parser.add_argument("--sample", type=int, default=400, help="mutants of all rooms (400)")
    parser.add_argument("--limit", type=float, default=120, help="seconds a mutant may take (120)")
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    drawn = sample(options.rooms or OF_ROOM, options.sample)
    warm_up(sorted({test for room in OF_ROOM.values() for test in [*room, *OF_ALL]}))
    for room in {room_of(mutant): None for mutant in drawn}:
        if not passes([*OF_ROOM[room], *OF_ALL], options.limit):
            parser.error(f"the tests of {room} fail without any error in it: mend them first")
    for mutant in drawn:
        if results.get(mutant.name) == "caught" or mutant.name in EQUIVALENT:
            continue
        begun = time.monotonic()
        tests = [*OF_ROOM[room_of(mutant)], *OF_ALL]
        results[mutant.name] = "survived" if passes(tests, options.limit, mutant) else "caught"
        seconds = time.monotonic() - begun
        print(f"{results[mutant.name]}  {seconds:4.1f} s  {mutant.name}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    return report(drawn, results)


def report(drawn: list[Mutant], results: dict[str, str]) -> int:
    """Print the score and who survived; 1 if fewer than nine in ten were caught."""
    counted = [mutant for mutant in drawn if mutant.name not in EQUIVALENT]
    left = [mutant for mutant in counted if results[mutant.name] == "survived"]
    caught = len(counted) - len(left)
    for mutant in left:
        print(f"{mutant.file}:{mutant.line}  {mutant.name.split(': ', 1)[1]}")
    share = caught / max(1, len(counted))
    print(
        f"{caught} of {len(counted)} mutants caught ({share:.1%}); "
        f"{len(drawn) - len(counted)} more change nothing (tests/mutation/equivalent.py)"
    )
    return int(share < 0.9)


if __name__ == "__main__":
    raise SystemExit(main())
