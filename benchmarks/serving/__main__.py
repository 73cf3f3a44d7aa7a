"""vLLM against transformers with the same plug-in attached: answers token for token, and load.

    make serving-env
    runs/serving-venv/bin/python -m benchmarks.serving

Needs `make quickstart` for the trained plug-in, of which the first stage is served. Parts by the
name of a family serve a tiny random model of it. Each part runs in a process of its own and leaves
its part of the results.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS
from benchmarks.environment import environment
from benchmarks.serving.equality import OTHERWISE
from benchmarks.serving.random_bases import FAMILIES
from benchmarks.serving.report import page

PARTS = ("trained", "divprune", "todre", "cls_attention", "adapters", *OTHERWISE, *FAMILIES, "load")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--questions", type=int, default=500, help="of the case with one image")
    add("--data", type=Path, default=Path("runs/data/test"))
    add("--plugin", type=Path, default=Path("runs/quickstart/plugin"), help="the trained one")
    add("--output", type=Path, default=RESULTS / "serving.json")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        _run(options)
        return
    for part in options.parts:
        subprocess.run([sys.executable, *sys.orig_argv[1:], "--part", part], check=True)


def _run(options: argparse.Namespace) -> None:
    """One part, into the results that there are."""
    if options.part == "load":
        from benchmarks.serving.load import measure as work
    else:
        from benchmarks.serving.equality import measure as work
    found = work(options)
    report: dict[str, Any] = {}
    if options.output.exists():
        report = json.loads(options.output.read_text())
    import vllm

    made = environment(["python", "-m", "benchmarks.serving", *sys.argv[1:-2]])
    made["versions"] += f", vllm {vllm.__version__}"
    report.setdefault("made by", {})[options.part] = made.pop("made by")
    report |= made | {options.part: found}
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    options.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
