"""What draws teach pruners that a guide has taught: `python -m benchmarks.policy`, after
`make quickstart`, from the repository's root.

The quickstart's pruners go on for as many steps and questions in two ways: by draws
(`model.policy`), at each budget by itself, and by the guide, which knows no budget. All then answer
the same test questions at each budget, without any repair, and are compared in pairs. Finished
trainings are skipped, one that was cut off goes on. Results go to results/policy.json and .md.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.questions import Questions, Right, pruners_at
from benchmarks.steps import trained_plugin, training_seconds
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    changed,
    read_configuration,
    validated_once,
    write_configuration,
)
from rcp.atomic_write import atomic
from rcp.evaluation.paired import mcnemar
from rcp.evaluation.report import tables
from rcp.plugin import Plugin

RECIPE = "rcp_tiny_policy.yaml"
STEPS, BATCH = 300, 16
BUDGETS = {"N/36": 1 / 36, "N/9": 1 / 9}
GUIDE, LONGER, DRAWS = "guide", "guide, longer", "guide, then draws"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("policy", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, answer and write what ``options`` ask for."""
    recipe = read_configuration(CONFIGS / RECIPE)
    folders = {name: _trained(name, recipe, options) for name in (LONGER, *options.budgets)}
    seconds = {name: training_seconds(folder.parent) for name, folder in folders.items()}
    contestants: dict[str, Plugin | None] = {"full": None}
    for budget in options.budgets:
        ways = {GUIDE: options.guide, LONGER: folders[LONGER], DRAWS: folders[budget]}
        ratios = budget_of(recipe, BUDGETS[budget])
        contestants |= {f"{budget} {way}": pruners_at(at, ratios) for way, at in ways.items()}
    questions = Questions(
        recipe["model"]["base"], options.data, options.limit, options.runs / "answers"
    )
    right = {name: questions.right(name, plugin) for name, plugin in contestants.items()}
    rows = [_row(name, questions.kinds, right) for name in contestants]
    _write(rows, seconds, options, arguments)
    print(f"Results in {options.output}, and in .md beside it")


def budget_of(recipe: Configuration, mean_ratio: float) -> list[float]:
    """The stages' ratios: those of ``recipe``, N/36, times what ``mean_ratio`` is of it."""
    ratios = [stage["ratio"] for stage in recipe["model"]["plugin"]["stages"]]
    return [ratio * mean_ratio * 36 for ratio in ratios]


def _trained(name: str, recipe: Configuration, options: argparse.Namespace) -> Path:
    """The plug-in whose pruners the guide has taught longer, or draws at the budget ``name``."""
    steps = {"trainer.max_steps": STEPS, "data.batch_size": BATCH}
    taught = {"model.pruners_from": str(options.guide), **steps}
    if name == LONGER:
        changes = {**taught, "model.policy": None, "model.guide.share": 1.0}
    else:
        changes = {**taught, "model.guide": None, "model.policy.share": 1.0}
    made = changed(recipe, changes)
    if name != LONGER:
        ratios = budget_of(recipe, BUDGETS[name])
        for stage, ratio in zip(made["model"]["plugin"]["stages"], ratios):
            stage["ratio"] = round(ratio, 6)
    run = options.runs / name.replace("/", "_").replace(", ", "_")
    config = write_configuration(validated_once(made), run.with_suffix(".yaml"))
    return trained_plugin(config, run, 0, options.train)


def _row(name: str, kinds: Sequence[str], right: Mapping[str, Right]) -> dict[str, Any]:
    own = right[name]
    by_type: dict[str, Right] = defaultdict(list)
    for kind, hit in zip(kinds, own):
        by_type[kind].append(hit)
    against = [f"{name.split()[0]} {way}" for way in (GUIDE, LONGER)] if DRAWS in name else []
    return {
        "row": name,
        "n": len(own),
        "accuracy": round(sum(own) / len(own), 6),
        "by_type": {kind: round(sum(hit) / len(hit), 6) for kind, hit in sorted(by_type.items())},
        "questions": {kind: len(hit) for kind, hit in sorted(by_type.items())},
        "p": {
            other: float(f"{mcnemar(np.array(own), np.array(right[other])):.3g}")
            for other in against
        },
    }


def _write(
    rows: Sequence[dict[str, Any]],
    seconds: Mapping[str, float],
    options: argparse.Namespace,
    arguments: Sequence[str],
) -> None:
    made = environment(["python", "-m", "benchmarks.policy", *arguments])
    spent = {name: round(value) for name, value in seconds.items()}
    values = {"made": made, "steps": STEPS, "batch": BATCH, "seconds": spent, "rows": rows}
    with atomic(options.output) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
    kinds = list(rows[0]["by_type"])
    header = ["row", "accuracy %", *kinds, "p against guide", "p against guide, longer"]
    cells = [header] + [
        [row["row"], f"{100 * row['accuracy']:.1f}",
         *(f"{100 * row['by_type'][kind]:.1f}" for kind in kinds),
         *([f"{value:.2g}" for value in row["p"].values()] or ["", ""])]
        for row in rows
    ]
    lines = ["# Draws after a guide", "", *(f"- {name}: {value}" for name, value in made.items())]
    lines += [
        f"- training, wall seconds: {', '.join(f'{n} {s}' for n, s in spent.items())}",
        "",
        f"{rows[0]['n']} test questions, pruners alone. From the quickstart's pruners on, {STEPS} "
        f"steps of {BATCH} questions; the last rows of a budget by draws of it. p: McNemar, exact.",
        "",
        tables.markdown(cells),
    ]
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    made = parser("policy", __doc__, "runs/policy")
    add = made.add_argument
    add("--guide", type=Path, default=Path("runs/quickstart/plugin"),
        help="exported plug-in whose pruners a guide has taught")
    add("--budgets", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), metavar="NAME",
        help=f"only these: {', '.join(BUDGETS)}")
    add("--limit", type=int, default=2000, help="how many of the test questions")
    add("--output", type=Path, default=RESULTS / "policy.json", help="where results go")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
