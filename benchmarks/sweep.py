"""RCP and its controls over the budget: `python -m benchmarks.sweep`, from the repository's root.

At each budget below it trains RCP (a plug-in a seed) and a repair adapter on random drops, with the
first stage at layer 1; at the two smallest the first stage stands before the decoder, and these
are a curve of their own: behind layer 1, the one full layer of 24 leaves next to nothing. One
plug-in more is trained with a budget drawn anew each step, and evaluated at all budgets of the
first curve. Finished steps are skipped. Rows and figure go to results/rcp_sweep.json, .md, .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import figures
from benchmarks.ablation import GUIDE_ALONE, RECIPE, SHORTENED, WITHOUT
from benchmarks.command import exit_status, variants_parser
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugins
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    Variant,
    changed,
    read_configuration,
)
from rcp.atomic_write import atomic
from rcp.evaluation.comparison import Report
from rcp.evaluation.contestants import BLANK_IMAGE
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow

INSIDE = {"first stage at layer 1": (1, 8, 15)}
BEFORE = {"first stage before the decoder": (0, 8, 15)}
REMOVED = {50.0: INSIDE, 66.7: INSIDE, 77.8: INSIDE, 88.9: INSIDE, 93.0: INSIDE,
           94.4: BEFORE, 97.2: BEFORE}
"""Percent of the visual tokens removed, mean over layers, and where the stages stand."""

MANY = "many_budgets"
RANGE = (0.07, 0.5)
"""Mean shares between which the plug-in of many budgets draws, log-uniformly."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("sweep", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, evaluate and write what ``options`` ask for."""
    recipe = changed(read_configuration(CONFIGS / options.recipe), SHORTENED)
    reports = {removed: _report(removed, recipe, options) for removed in options.removed}
    _write(reports, options.output, arguments)
    print(f"Results in {options.output}, and in .md and .png beside it")


def variants(removed: float) -> dict[str, Variant]:
    """What is trained for one budget, by name; the guide teaches a curve's pruners only once."""
    (layers,) = REMOVED[removed].values()
    ratio = round(1 - removed / 100, 6)
    about, folder = f"{removed:g} % removed", f"removed_{removed:g}"
    guided = "guided_before" if REMOVED[removed] is BEFORE else "guided_inside"
    return {
        "guided": Variant(guided, "the guided pruner alone", 3, {**WITHOUT, **GUIDE_ALONE},
                          layers=layers),
        "rcp": Variant(f"{folder}/rcp", about, 3, layers=layers, mean_ratio=ratio,
                       taught_by=guided),
        "random_repair": Variant(f"{folder}/random_repair", about, 1, layers=layers,
                                 mean_ratio=ratio, method="random"),
    }


def many_budgets() -> Variant:
    """What is trained once for all budgets of the first curve."""
    (layers,) = INSIDE.values()
    return Variant(MANY, "budget drawn each step", 3, {"model.plugin.budgets": list(RANGE)},
                   layers=layers, taught_by="guided_inside")


def _report(removed: float, recipe: Configuration, options: argparse.Namespace) -> Report:
    plugins = {
        name: trained_plugins(variant, variant.of(recipe), options)
        for name, variant in variants(removed).items()
    }
    others = {"random_repair": plugins["random_repair"]}
    arguments = ["--data", str(options.data), "--limit", str(options.limit), *options.evaluate]
    if REMOVED[removed] is INSIDE:
        many = many_budgets()
        others[MANY] = trained_plugins(many, many.of(recipe), options)
        arguments += ["--budget", str(round(1 - removed / 100, 6))]
    return compared(options.runs / f"removed_{removed:g}", plugins["rcp"], others, arguments)


def _write(
    reports: dict[float, Report], output: Path, arguments: Sequence[str]
) -> None:
    made = environment(["python", "-m", "benchmarks.sweep", *arguments])
    budgets = {str(removed): [asdict(row) for row in report.rows]
               for removed, report in reports.items()}
    with atomic(output) as unfinished:
        unfinished.write_text(json.dumps({"made": made, "removed": budgets}, indent=2) + "\n")
    text = ["# RCP over the budget", "", *(f"- {name}: {value}" for name, value in made.items())]
    for removed, report in reports.items():
        (stages,) = REMOVED[removed]
        text += ["", f"## {removed:g} % removed, {stages}", ""]
        text += [tables.markdown(tables.summary(report.rows)), "", *report.notes]
    output.with_suffix(".md").write_text("\n".join(text) + "\n")
    (dashed,) = BEFORE
    figures.sweep(_lines(reports), dashed, "accuracy retained %", output.with_suffix(".png"))


def _lines(reports: dict[float, Report]) -> list[figures.Line]:
    """One line a method and curve."""
    lines: dict[tuple[str, bool], figures.Line] = {}
    for removed, report in sorted(reports.items()):
        dashed = REMOVED[removed] is BEFORE
        full, *others = report.rows
        for row in others:
            if row.method != BLANK_IMAGE:
                new = figures.Line(row.method, dashed, [], [], [], [])
                _add(lines.setdefault((row.method, dashed), new), row, full)
    return list(lines.values())


def _add(line: figures.Line, row: ResultRow, full: ResultRow) -> None:
    line.tokens.append(row.mean_tokens)
    line.flops.append(row.flops / 1e9)
    line.value.append(100 * row.retained)
    line.error.append(100 * row.accuracy_std / full.accuracy if full.accuracy else 0.0)


def _parser() -> argparse.ArgumentParser:
    made = variants_parser("sweep", __doc__, RECIPE, "rcp_sweep.json")
    made.add_argument("--removed", type=float, nargs="+", choices=list(REMOVED),
                      default=list(REMOVED), help="only these budgets, in percent removed")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
