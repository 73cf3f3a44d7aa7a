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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.paired import mcnemar
from benchmarks.steps import trained_plugin, training_seconds
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    changed,
    read_configuration,
    validated_once,
    write_configuration,
)
from rcp import attach
from rcp.atomic_write import atomic
from rcp.attaching.given_images import encode_images, given_images
from rcp.base_model.answering import greedy_answers
from rcp.base_model.loading import load_base
from rcp.conversations import Batch, ConversationCollator, ConversationDataset
from rcp.evaluation.report import tables
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin

RECIPE = "rcp_tiny_policy.yaml"
STEPS, BATCH = 300, 16
BUDGETS = {"N/36": 1 / 36, "N/9": 1 / 9}
GUIDE, LONGER, DRAWS = "guide", "guide, longer", "guide, then draws"

Right = list[bool]
"""Of each test question, whether it was answered right."""


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


def pruners_at(folder: Path, ratios: Sequence[float]) -> Plugin:
    """The pruners of the plug-in in ``folder``, without its repair, keeping these ``ratios``."""
    taught = load_plugin(folder)
    stages = [
        replace(stage, ratio=ratio)
        for stage, ratio in zip(taught.spec.stages, ratios, strict=True)
    ]
    spec = replace(taught.spec, stages=stages, repair=None)
    plugin = Plugin(spec, taught.hidden_size, taught.num_layers)
    plugin.pruners.load_state_dict(taught.pruners.state_dict())
    plugin.base = taught.base
    return plugin.eval()


class Questions:
    """The first ``limit`` questions of ``data``, answered by one contestant after another.

    What a contestant gets right is kept in ``folder``, so that it answers once.
    """

    def __init__(self, base: str, data: Path, limit: int, folder: Path) -> None:
        self.model, self.processor = load_base(base, "float32")
        self.dataset = ConversationDataset(data)
        self.count, self.folder = min(limit, len(self.dataset)), folder
        self.kinds = [sample.question_type for sample in self.dataset.samples[: self.count]]

    @cached_property
    def batches(self) -> list[tuple[Batch, Any]]:
        """Batches with the features of their images, which all contestants share."""
        collate = ConversationCollator(self.processor, with_answers=False)
        starts = range(0, self.count, 50)
        numbers = [range(start, min(start + 50, self.count)) for start in starts]
        batches = [collate([self.dataset[n] for n in some]) for some in numbers]
        return [(batch, encode_images(self.model, batch["inputs"])) for batch in batches]

    def right(self, name: str, plugin: Plugin | None) -> Right:
        """What ``plugin`` answers right; None is the full model."""
        file = self.folder / f"{name.replace('/', '_').replace(' ', '_')}-{self.count}.json"
        if file.is_file():
            return json.loads(file.read_text())
        found: Right = []
        for batch, features in self.batches:
            with given_images(self.model, features):
                said = _answers(self.model, self.processor, plugin, batch["inputs"])
            pairs = zip(said, batch["answers"], strict=True)
            found += [one.strip().lower() == answer.strip().lower() for one, answer in pairs]
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(file) as unfinished:
            unfinished.write_text(json.dumps(found))
        return found


@torch.no_grad()
def _answers(model: Any, processor: Any, plugin: Plugin | None, inputs: Any) -> list[str]:
    if plugin is None:
        return greedy_answers(model, processor, inputs, 4)
    with attach(model, plugin, "drop"):
        return greedy_answers(model, processor, inputs, 4)


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
        "p": {other: float(f"{mcnemar(own, right[other]):.3g}") for other in against},
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
