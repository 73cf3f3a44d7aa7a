"""Where to drop tokens: `python -m benchmarks.schedules`, after `make data`, from the repository's
root.

One guide teaches a pruner for every layer that a schedule below uses. The schedules then share
their weights, and differ in nothing but where they drop, at equal mean tokens over the decoder's
layers, without any repair; so do those of the best method without training. FinalWipe drops all
tokens that are left at the layer `rcp horizon` finds, and spends them earlier. A stage before the
decoder is also measured at as many FLOPs as the others take. A training that was cut off goes on.
Results go to results/schedules.json and .md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.questions import Questions, Right
from benchmarks.steps import trained_plugin
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    changed,
    read_configuration,
    validated_once,
    write_configuration,
)
from rcp import PluginSpec, attach
from rcp.atomic_write import atomic
from rcp.choosing.schedule import Schedule, shaped
from rcp.evaluation.paired import mcnemar
from rcp.evaluation.report import tables
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin
from rcp.plugin.spec import stages_of

RECIPE = "quickstart.yaml"
DEPTH, TOKENS = 24, 144
HORIZON = 22
"""What `rcp horizon --base data/tiny-vlm --data runs/data/validation --limit 200` prints."""

BUDGETS = {"N/9": 1 / 9, "N/18": 1 / 18, "N/36": 1 / 36}
FULL = "full model"
ONE = "one stage before the decoder"
UNTRAINED = "zoo_prune"


@dataclass(frozen=True)
class Shape:
    """Stages at ``layers`` that keep in proportion to ``shares``."""

    layers: tuple[int, ...]
    shares: tuple[float, ...]

    def at(self, mean_ratio: float, wiped: bool) -> Schedule:
        return shaped(self.shares, mean_ratio, self.layers, DEPTH, HORIZON if wiped else None)


SHAPES = {
    ONE: Shape((0,), (1,)),
    "three from before the decoder on": Shape((0, 9, 15), (9, 8, 7)),
    "three from before the decoder on, steep": Shape((0, 9, 15), (12, 4, 1)),
    "three inside, as published": Shape((1, 10, 19), (12, 4, 1)),
}
"""The published layers are 1, 13 and 25 of 32, and its shares fall from 16.7 to 1.4 %."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("schedules", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, answer and write what ``options`` ask for."""
    recipe = read_configuration(CONFIGS / RECIPE)
    run = options.runs / "guide"
    config = write_configuration(guided(recipe), run.with_suffix(".yaml"))
    taught = load_plugin(trained_plugin(config, run, 0, options.train))
    questions = Questions(
        recipe["model"]["base"], options.data, options.limit, options.runs / "answers"
    )
    right = {FULL: questions.right(FULL, None)}
    rows = [_row(FULL, right, None, 0)]
    for budget, mean_ratio in BUDGETS.items():
        for name, plugin in contestants(taught, mean_ratio).items():
            row = f"{budget} {name}"
            right[row] = questions.right(row, plugin)
            rows.append(_row(row, right, plugin, flops(questions, plugin)))
        most = max(row["flops"] for row in rows if row["row"].startswith(budget))
        plugin = of_as_many_flops(taught, most, questions)
        row = f"{budget} {ONE}, as many FLOPs"
        right[row] = questions.right(row, plugin)
        rows.append(_row(row, right, plugin, flops(questions, plugin)))
        _write(rows, options.output, arguments)
    print(f"Results in {options.output}, and in .md beside it")


def guided(recipe: Configuration) -> Configuration:
    """``recipe`` that teaches a pruner at each layer of :data:`SHAPES`, and nothing else."""
    layers = sorted({layer for shape in SHAPES.values() for layer in shape.layers})
    stage = recipe["model"]["plugin"]["stages"][0]
    steps = round(recipe["trainer"]["max_steps"] * recipe["model"]["guide"]["share"])
    return validated_once(changed(recipe, {
        "model.plugin.stages": [{**stage, "layer": layer} for layer in layers],
        "model.plugin.repair": None,
        "model.guide.pruning_layers": None,
        "model.guide.share": 1.0,
        "trainer.max_steps": steps,
    }))


def contestants(taught: Plugin, mean_ratio: float) -> dict[str, Plugin]:
    """By name the plug-ins of that mean: where the layers before a schedule's first stage take
    more than the whole budget, there is none."""
    found = {}
    for name, shape in SHAPES.items():
        if shape.layers[0] >= mean_ratio * DEPTH:
            continue
        for wiped in (False, True):
            ending = ", FinalWipe" if wiped else ""
            found[name + ending] = of_taught(taught, shape.at(mean_ratio, wiped))
    for wiped in (False, True):
        schedule = SHAPES[ONE].at(mean_ratio, wiped)
        spec = PluginSpec(stages_of(schedule, UNTRAINED))
        name = f"{UNTRAINED}{', FinalWipe' if wiped else ''}"
        found[name] = Plugin(spec, taught.hidden_size, taught.num_layers).eval()
    return found


def of_taught(taught: Plugin, schedule: Schedule) -> Plugin:
    """The pruners of ``taught`` under ``schedule``."""
    first = taught.spec.stages[0]
    stages = stages_of(schedule, first.method, **first.arguments)
    plugin = Plugin(PluginSpec(stages), taught.hidden_size, taught.num_layers)
    for stage in stages:
        if stage.ratio:
            weights = taught.pruner(stage.layer).state_dict()
            plugin.pruner(stage.layer).load_state_dict(weights)
    plugin.base = taught.base
    return plugin.eval()


@torch.no_grad()
def flops(questions: Questions, plugin: Plugin) -> int:
    """Those of decoder, head and ``plugin`` in the prefill of one question, counted as it runs."""
    batch, _ = questions.batches[0]
    inputs = {name: value[:1] for name, value in batch["inputs"].items()}
    model = questions.model
    with attach(model, plugin, "drop"), FlopCounterMode(display=False) as counted:
        model(**inputs, use_cache=True, logits_to_keep=1)
    encoding = FlopCounterMode(display=False)
    with encoding:
        model.get_image_features(inputs["pixel_values"])
    return counted.get_total_flops() - encoding.get_total_flops()


def of_as_many_flops(taught: Plugin, most: int, questions: Questions) -> Plugin:
    """One stage before the decoder that keeps as many tokens as ``most`` FLOPs allow."""
    plugins = (of_taught(taught, Schedule((0,), (count / TOKENS,), DEPTH))
               for count in range(TOKENS, 1, -1))
    return next(plugin for plugin in plugins if flops(questions, plugin) <= most)


def _row(
    name: str, right: Mapping[str, Right], plugin: Plugin | None, counted: int
) -> dict[str, Any]:
    own, one = right[name], right.get(f"{name.split()[0]} {ONE}")
    schedule = None if plugin is None else plugin.schedule
    counts = [] if schedule is None else [
        [layer, schedule.count(stage, TOKENS)] for stage, layer in enumerate(schedule.layers)
    ]
    compared = one is not None and one is not own
    return {
        "row": name,
        "n": len(own),
        "accuracy": round(sum(own) / len(own), 6),
        "kept": round(sum(own) / sum(right[FULL]), 6),
        "stages": counts,
        "mean_tokens": TOKENS if schedule is None else round(_mean(schedule), 3),
        "flops": counted,
        "p": float(f"{mcnemar(np.array(own), np.array(one)):.3g}") if compared else None,
    }


def _mean(schedule: Schedule) -> float:
    counts = [TOKENS, *(schedule.count(n, TOKENS) for n in range(len(schedule.layers)))]
    return sum(span * count for span, count in zip(schedule.spans, counts)) / DEPTH


def _write(rows: Sequence[dict[str, Any]], output: Path, arguments: Sequence[str]) -> None:
    made = environment(["python", "-m", "benchmarks.schedules", *arguments])
    with atomic(output) as unfinished:
        unfinished.write_text(json.dumps({"made": made, "rows": rows}, indent=2) + "\n")
    cells = [["row", "accuracy %", "kept %", "p", "mean tokens", "MFLOPs", "tokens from layer"]]
    cells += [
        [row["row"], f"{100 * row['accuracy']:.1f}", f"{100 * row['kept']:.1f}",
         "" if row["p"] is None else f"{row['p']:.2g}", f"{row['mean_tokens']:.1f}",
         f"{row['flops'] / 1e6:.0f}" if row["flops"] else "",
         ", ".join(f"{layer}: {count}" for layer, count in row["stages"])]
        for row in rows
    ]
    output.with_suffix(".md").write_text("\n".join([
        "# Where to drop",
        "",
        *(f"- {name}: {value}" for name, value in made.items()),
        "",
        f"{rows[0]['n']} test questions, one seed, no repair. RCP's pruners, taught by one guide; "
        f"{UNTRAINED} needs no training. p: McNemar, exact, against '{ONE}' at the same budget. "
        f"FLOPs: decoder, head and plug-in in the prefill of one question. FinalWipe drops all at "
        f"layer {HORIZON}.",
        "",
        tables.markdown(cells),
    ]) + "\n")


def _parser() -> argparse.ArgumentParser:
    made = parser("schedules", __doc__, "runs/schedules")
    add = made.add_argument
    add("--limit", type=int, default=2000, help="how many of the test questions (2000)")
    add("--output", type=Path, default=RESULTS / "schedules.json", help="where results go")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
