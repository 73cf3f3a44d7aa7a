"""One stage before the decoder and low-rank adapters: `python -m benchmarks.budgets`, after
`make data`, from the repository's root.

A guide teaches a pruner on 40 000 questions (`configs/rcp_tiny_lora.yaml` names the commands that
make them and their labels). It knows no budget, and answers the test questions at each of three by
itself. Then adapters are trained at each budget for it. The control, the same adapters trained as
long on all tokens, tells what of it they would give a model that loses none. A seed of everything
after the other; finished steps are skipped, a training that was cut off goes on. Results go to
results/budgets.json and .md.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.questions import Questions, pruners_at
from benchmarks.steps import trained_plugin
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    changed,
    read_configuration,
    validated_once,
    write_configuration,
)
from rcp.atomic_write import atomic
from rcp.evaluation.paired import over_seeds, paired
from rcp.evaluation.report import tables
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin

RECIPE = "rcp_tiny_lora.yaml"
BUDGETS = {"N/9": 1 / 9, "N/18": 1 / 18, "N/36": 1 / 36}
FULL, CONTROL = "full model", "all tokens, adapters"
ALONE, ADAPTED = "pruner alone", "and adapters"

Answers = dict[str, list[list[bool]]]
"""Of each row, seed by seed, which questions were answered right."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("budgets", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, answer and write what ``options`` ask for."""
    recipe = read_configuration(CONFIGS / RECIPE)
    questions = Questions(
        recipe["model"]["base"], options.data, options.limit, options.runs / "answers"
    )
    right: Answers = defaultdict(list)
    right[FULL].append(questions.right(FULL, None))
    for seed in range(options.seeds):
        guide = _trained("guide", guided(recipe), seed, options)
        for budget, ratio in BUDGETS.items():
            contestants: dict[str, Plugin] = {ALONE: pruners_at(guide, [ratio])}
            made = _trained(budget, adapted(recipe, guide, ratio), seed, options)
            contestants[ADAPTED] = load_plugin(made).eval()
            for name, plugin in contestants.items():
                row = f"{budget} {name}"
                right[row].append(questions.right(f"{row} {seed}", plugin))
    for seed in range(min(options.seeds, options.controls)):
        made = _trained("all", adapted(recipe, None, None), seed, options)
        right[CONTROL].append(questions.right(f"{CONTROL} {seed}", load_plugin(made).eval()))
    _write([_row(name, questions.kinds, right) for name in right], options.output, arguments)
    print(f"Results in {options.output}, and in .md beside it")


def guided(recipe: Configuration) -> Configuration:
    """The guide's part of ``recipe``, without adapters."""
    steps = round(recipe["trainer"]["max_steps"] * recipe["model"]["guide"]["share"])
    alone = {"model.plugin.lora": None, "model.guide.share": 1.0, "trainer.max_steps": steps}
    return validated_once(changed(recipe, alone))


def adapted(recipe: Configuration, guide: Path | None, ratio: float | None) -> Configuration:
    """The other part: behind a stage of ``ratio`` that ``guide`` has taught, or of all tokens."""
    share = recipe["model"]["guide"]["share"]
    steps = round(recipe["trainer"]["max_steps"] * (1 - share))
    found = changed(recipe, {"model.guide": None, "trainer.max_steps": steps})
    if guide is None:
        return validated_once(changed(found, {"model.plugin.stages": []}))
    found["model"]["plugin"]["stages"][0]["ratio"] = ratio
    return validated_once(changed(found, {"model.pruners_from": str(guide)}))


def _trained(name: str, made: Configuration, seed: int, options: argparse.Namespace) -> Path:
    run = options.runs / name.replace("/", "_") / f"seed{seed}"
    config = write_configuration(made, run.with_suffix(".yaml"))
    return trained_plugin(config, run, seed, options.train)


def _row(name: str, kinds: Sequence[str], right: Answers) -> dict[str, Any]:
    """Accuracy by seed and type, and the paired differences to the two rows without pruning."""
    seeds = right[name]
    own = over_seeds(seeds)
    by_type: dict[str, list[float]] = defaultdict(list)
    for kind, share in zip(kinds, own):
        by_type[kind].append(share)
    against = {
        other: paired(own, over_seeds(right[other]))
        for other in (FULL, CONTROL) if right.get(other) and name != other
    }
    return {
        "row": name,
        "questions": len(own),
        "accuracies": [round(fmean(answers), 6) for answers in seeds],
        "by_type": {kind: round(fmean(found), 6) for kind, found in sorted(by_type.items())},
        "kept of": {other: round(own.mean() / over_seeds(right[other]).mean(), 6)
                    for other in against},
        "against": {other: {"interval": found.interval, "p": float(f"{found.p:.3g}")}
                    for other, found in against.items()},
    }


def _write(rows: Sequence[dict[str, Any]], output: Path, arguments: Sequence[str]) -> None:
    made = environment(["python", "-m", "benchmarks.budgets", *arguments])
    with atomic(output) as unfinished:
        unfinished.write_text(json.dumps({"made": made, "rows": rows}, indent=2) + "\n")
    kinds = list(rows[0]["by_type"])
    header = ["row", "accuracy %", "seeds", f"% of {FULL}", "95 % interval", "p",
              f"% of {CONTROL}", *kinds]
    cells = [header] + [
        [row["row"], _accuracy(row["accuracies"]), str(len(row["accuracies"])), *_kept(row),
         *(f"{100 * row['by_type'][kind]:.1f}" for kind in kinds)]
        for row in rows
    ]
    facts = [f"- {name}: {value}" for name, value in made.items()]
    output.with_suffix(".md").write_text("\n".join([
        "# A stage before the decoder, and low-rank adapters",
        "",
        *facts,
        "",
        f"{rows[0]['questions']} test questions. Interval and p (McNemar, exact) of the difference "
        f"to the {FULL}, in points, paired by question.",
        "",
        tables.markdown(cells),
    ]) + "\n")


def _accuracy(seeds: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(seeds):.1f}" if len(seeds) > 1 else ""
    return f"{100 * fmean(seeds):.1f}{spread}"


def _kept(row: Mapping[str, Any]) -> list[str]:
    kept, against = row["kept of"], row["against"].get(FULL)
    low, high = against["interval"] if against else ("", "")
    return [
        f"{100 * kept[FULL]:.1f}" if FULL in kept else "",
        f"{100 * low:+.1f} to {100 * high:+.1f}" if against else "",
        f"{against['p']:.2g}" if against else "",
        f"{100 * kept[CONTROL]:.1f}" if CONTROL in kept else "",
    ]


def _parser() -> argparse.ArgumentParser:
    made = parser("budgets", __doc__, "runs/budgets")
    made.set_defaults(data=Path("runs/data_large/test"))
    add = made.add_argument
    add("--seeds", type=int, default=3, help="how many trainings a row (3)")
    add("--controls", type=int, default=1, help="of them with all tokens, which take longest (1)")
    add("--limit", type=int, default=6000, help="how many of the test questions (6000)")
    add("--output", type=Path, default=RESULTS / "budgets.json", help="where results go")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
