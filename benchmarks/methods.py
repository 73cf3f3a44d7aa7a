"""All methods at equal budgets on the embedded model: `python -m benchmarks.methods`.

Two tables. *Entering*: N/9 of the visual tokens enter the decoder, chosen before it. *Mean*: N/9
on average over its layers, dropped at the same three stages, the first of them at layer 1.
Every registered pruner without weights takes part by existing; exported plug-ins are named on the
command line and join the second table at their own schedule. A finished row is kept in the run
folder and not computed again. Ends in results/methods.json, .md and .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS, exit_status
from benchmarks.environment import environment
from benchmarks.methods_bench import SHARE, Bench, Entry
from benchmarks.methods_figure import draw
from benchmarks.methods_page import page
from rcp.choosing.schedule import schedule_for
from rcp.errors import UserError
from rcp.evaluation.contestants import FULL, Contestant
from rcp.evaluation.entrants import compared
from rcp.evaluation.images import blank_image, downsampled_input
from rcp.plugin import StageSpec, stages_of
from rcp.pruners import PRUNERS

SEEDS = 3
TABLES = {
    "entering": "N/9 visual tokens enter the decoder",
    "mean": "N/9 visual tokens, mean over the decoder's layers",
}


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    options = _parser().parse_args(arguments)
    return exit_status("methods", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Measure and write what ``options`` ask for."""
    bench = Bench(options)
    found = {table: table_of(bench, table, options.plugin) for table in TABLES}
    made = environment(["python", "-m", "benchmarks.methods", *arguments])
    content = {"made": made} | {t: [asdict(entry) for entry in es] for t, es in found.items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=2) + "\n")
    options.output.with_suffix(".md").write_text(page(found, TABLES, made, bench, SEEDS))
    draw({TABLES[table]: found[table] for table in TABLES}, options.output.with_suffix(".png"))
    print(f"Tables in {options.output.with_suffix('.md')}")


def methods() -> list[str]:
    """The registered pruners that have nothing to train."""
    return [
        name for name in PRUNERS.names() if not any(True for _ in PRUNERS.get(name)(8).parameters())
    ]


def table_of(bench: Bench, table: str, plugins: Sequence[str]) -> list[Entry]:
    """All lines of one table, the full model's first, then by accuracy."""
    full = bench.entry(table, FULL, [Contestant(FULL)])
    found = [_method(bench, table, name) for name in methods()]
    blank = blank_image(bench.questions.prepare, bench.processor)
    found.append(bench.entry(table, blank.method, [blank]))
    total = bench.backbone.visual_tokens
    small = downsampled_input(round(SHARE * (total or 0)), bench.backbone, bench.processor)
    if small is not None:
        found.append(bench.entry(table, small.method, [small]))
    if table == "mean":
        found.append(_information_horizon(bench))
        named: dict[str, list[Contestant]] = {}
        for contestant in compared(plugins):
            named.setdefault(contestant.method, []).append(contestant)
        found += [bench.entry(table, name, seeds) for name, seeds in named.items()]
    assert full.row is not None
    entries = [full, *(_retained(entry, full.row.accuracy) for entry in found)]
    return sorted(entries, key=lambda entry: (entry.method != FULL, -_accuracy(entry)))


def _method(bench: Bench, table: str, name: str) -> Entry:
    schedule = bench.schedules[table]
    try:
        contestants = []
        for seed in range(SEEDS if PRUNERS.get(name).draws else 1):
            stages = []
            for layer, ratio in zip(schedule.layers, schedule.ratios):
                arguments: dict[str, Any] = {"seed": seed} if PRUNERS.get(name).draws else {}
                if name == "debiased":
                    arguments["growth"] = bench.growths()[str(layer)]
                stages.append(StageSpec(layer, ratio, name, arguments))
            contestants.append(Contestant(name, bench.plugin(stages)))
        return bench.entry(table, name, contestants)
    except UserError as error:
        return Entry(name, None, remark=f"cannot be used here: {error}")


def _information_horizon(bench: Bench) -> Entry:
    """DivPrune early, random in the middle, nothing past the horizon (arXiv 2512.07580 [note])."""
    first, end = bench.schedules["mean"].layers[0], bench.horizon()
    middle = (first + end) // 2
    # the budget is spent above the horizon: twice as many tokens before the middle as after
    wiped_from = end if end < bench.depth else None
    spent = schedule_for(SHARE, (first, middle), bench.depth, 0.5, wiped_from)
    contestants = []
    for seed in range(SEEDS):
        stages = stages_of(spent, "random", seed=seed)
        stages[0] = StageSpec(first, spent.ratios[0], "divprune")
        contestants.append(Contestant("information_horizon", bench.plugin(stages)))
    entry = bench.entry("mean", "information_horizon", contestants)
    remark = f"divprune at {first}, random at {middle}, none from {end} on"
    return replace(entry, remark=remark)


def _accuracy(entry: Entry) -> float:
    return -1.0 if entry.row is None else entry.row.accuracy


def _retained(entry: Entry, full: float) -> Entry:
    if entry.row is None:
        return entry
    retained = round(entry.row.accuracy / full, 6) if full else 0.0
    return replace(entry, row=replace(entry.row, retained=retained))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--plugin", nargs="+", default=[], metavar="NAME=DIR",
        help="exported plug-ins; equal names are seeds of one method")
    add("--runs", type=Path, default=Path("runs/benchmark/methods"), help="finished rows")
    add("--data", type=Path, default=Path("runs/data/test"), help="test questions")
    add("--validation", type=Path, default=Path("runs/data/validation"),
        help="questions that calibrate")
    add("--limit", type=int, default=600, help="test questions (default: 600)")
    add("--rounds", type=int, default=9, help="rounds of timing (default: 9)")
    add("--output", type=Path, default=RESULTS / "methods.json", help="where results go")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
