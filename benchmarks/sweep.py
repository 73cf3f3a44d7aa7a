"""RCP and its controls over the budget: `python -m benchmarks.sweep`, from the repository's root.

At each budget below it trains RCP (a plug-in a seed) and repair adapters on random drops, with the
first stage at layer 1; at the two smallest the first stage stands before the decoder, and these
are a curve of their own: behind layer 1, the one full layer of 24 leaves next to nothing. One
plug-in more is trained with a budget drawn anew each step, and evaluated at all budgets of the
first curve. Finished steps are skipped. Rows and figure go to results/rcp_sweep.json, .md, .png.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import figures
from benchmarks.ablation import CONFIGS, RECIPE, RESULTS, SHORTENED
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugin
from benchmarks.variants import Variant, changed, read_configuration, write_configuration
from rcp.errors import UserError
from rcp.evaluation import tables
from rcp.evaluation.comparison import Report
from rcp.evaluation.contestants import BLANK_IMAGE
from rcp.evaluation.rows import Row

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
    try:
        reports = {removed: _budget(removed, options) for removed in options.removed}
    except UserError as error:
        print(f"benchmarks.sweep: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode  # the step has said why
    _write(reports, options.output, arguments)
    print(f"Results in {options.output}, and in .md and .png beside it")
    return 0


def variants(removed: float) -> dict[str, Variant]:
    """What is trained for one budget."""
    (layers,) = REMOVED[removed].values()
    ratio = round(1 - removed / 100, 6)
    about = f"{removed} % removed"
    return {
        "rcp": Variant("rcp", about, layers=layers, mean_ratio=ratio),
        "random_repair": Variant("random_repair", about, layers=layers, mean_ratio=ratio,
                                 method="random"),
    }


def many_budgets() -> Variant:
    """What is trained once for all budgets of the first curve."""
    (layers,) = INSIDE.values()
    return Variant(
        MANY,
        "budget drawn each step",
        changes={"model.plugin.budgets": list(RANGE)},
        layers=layers,
        mean_ratio=round(1 - 0.889, 6),
    )


def _budget(removed: float, options: argparse.Namespace) -> Report:
    recipe = changed(read_configuration(CONFIGS / options.recipe), SHORTENED)
    folder = options.runs / f"removed_{removed:g}"
    plugins = {
        name: _plugins(variant, recipe, folder, options)
        for name, variant in variants(removed).items()
    }
    arguments = ["--data", str(options.data), "--limit", str(options.limit), *options.evaluate]
    others = {"random_repair": plugins["random_repair"]}
    if REMOVED[removed] is INSIDE:
        others[MANY] = _plugins(many_budgets(), recipe, options.runs, options)
        arguments += ["--budget", str(variants(removed)["rcp"].mean_ratio)]
    return compared(folder, plugins["rcp"], others, arguments)


def _plugins(
    variant: Variant, recipe: dict[str, object], folder: Path, options: argparse.Namespace
) -> list[Path]:
    config = write_configuration(variant.of(recipe), folder / f"{variant.name}.yaml")
    return [
        trained_plugin(config, folder / f"{variant.name}{seed}", seed, options.train)
        for seed in range(options.seeds)
    ]


def _write(
    reports: dict[float, Report], output: Path, arguments: Sequence[str]
) -> None:
    made = environment(["python", "-m", "benchmarks.sweep", *arguments])
    budgets = {str(removed): [asdict(row) for row in report.rows]
               for removed, report in reports.items()}
    unfinished = output.with_suffix(".writing")
    unfinished.write_text(json.dumps({"made": made, "removed": budgets}, indent=2) + "\n")
    os.replace(unfinished, output)
    text = ["# RCP over the budget", "", *(f"- {name}: {value}" for name, value in made.items())]
    for removed, report in reports.items():
        (stages,) = REMOVED[removed]
        text += ["", f"## {removed:g} % removed, {stages}", ""]
        text += [tables.markdown(tables.summary(report.rows)), "", *report.notes]
    output.with_suffix(".md").write_text("\n".join(text) + "\n")
    figures.sweep(_lines(reports), "accuracy retained %", output.with_suffix(".png"))


def _lines(reports: dict[float, Report]) -> dict[str, figures.Line]:
    """One line a method and curve; the points of the full model are its rightmost ones."""
    lines: dict[str, figures.Line] = {}
    for removed, report in sorted(reports.items()):
        (stages,) = REMOVED[removed]
        before = REMOVED[removed] is BEFORE
        for row in report.rows[1:]:
            if row.method == BLANK_IMAGE:
                continue
            name = f"{row.method}, {stages}" if before else row.method
            line = lines.setdefault(name, figures.Line([], [], [], [], dashed=before))
            _add(line, row, report.rows[0])
    return lines


def _add(line: figures.Line, row: Row, full: Row) -> None:
    line.tokens.append(row.mean_tokens)
    line.flops.append(row.flops / 1e9)
    line.value.append(100 * row.retained)
    line.error.append(100 * row.accuracy_std / full.accuracy if full.accuracy else 0.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--removed", type=float, nargs="+", choices=list(REMOVED), default=list(REMOVED),
        help="only these budgets, in percent removed")
    add("--recipe", default=RECIPE, help="configuration in configs/ that all runs change")
    add("--seeds", type=int, default=3, help="seeds of each training")
    add("--runs", type=Path, default=Path("runs/sweep"), help="where training runs are kept")
    add("--data", type=Path, default=Path("runs/data/test"), help="test questions")
    add("--limit", type=int, default=600, help="how many of them")
    add("--output", type=Path, default=RESULTS / "rcp_sweep.json", help="where results go")
    add("--train", type=str.split, default=[], help="further arguments of train.py, in one string")
    add("--evaluate", type=str.split, default=[], help="further arguments of evaluate.py, likewise")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
