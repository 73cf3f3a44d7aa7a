"""What only a GPU can tell, within ten minutes: `make gpu`, or `python -m benchmarks.gpu`.

Each part is a process of its own with a log and a timeout; a part that fails stops no other. Ends
in a table, and in benchmarks/results/gpu_CARD.json and .md. With `--tiny` every part runs on the
CPU with sizes that only show that it runs, and nothing is written but in the output folder.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.command import RESULTS
from benchmarks.environment import environment
from benchmarks.gpu.machine import card, machine
from benchmarks.gpu.parts import PARTS, Places
from benchmarks.gpu.report import summary, text, write
from benchmarks.gpu.running import run_parts

FAST = Path("/dev/shm")
"""Memory that looks like a disk: 7B are written and read there in seconds."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if every part that ran is ok, else 1."""
    options = _parser().parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("benchmarks.gpu: there is no GPU here; --tiny tries every part on the CPU.",
              file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # parts end, too
    chosen = [part for part in PARTS if part.name in options.parts]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rcp-gpu-", dir=_fast()) as scratch:
        places = Places(options.output.resolve(), Path(scratch), options.tiny)
        outcomes = run_parts(chosen, places)
    made = environment(["python", "-m", "benchmarks.gpu", *arguments]) | machine()
    target = options.output / "tiny.json" if options.tiny else RESULTS / f"gpu_{card()}.json"
    write(outcomes, places, made, target)
    print(f"\n{text(summary(outcomes, places))}\n")
    print(f"{time.monotonic() - began:.0f} s. Figures in {target} and .md beside it, logs in "
          f"{options.output}.")
    return int(any(one.status not in ("ok", "skipped") for one in outcomes))


def _fast() -> Path | None:
    return FAST if FAST.is_dir() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    add = parser.add_argument
    add("--parts", nargs="+", choices=names, default=names, metavar="PART",
        help=f"only these: {', '.join(names)}")
    add("--output", type=Path, default=Path("runs/gpu"), help="folder for logs and runs")
    add("--tiny", action="store_true", help="every part on the CPU, in small")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
