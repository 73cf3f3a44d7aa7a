"""What pruning by a first question costs the second one, on the embedded model.

    python -m benchmarks.second_turn --plugin runs/quickstart/plugin

Pairs of test questions on the same image. The second one is answered from the image alone, from
what it would keep itself ("asked first") and from what the first one has left of it ("asked
second"). The embedded model has learned single questions, so that the second one is asked without
the first one's words: what differs is which tokens are there, and images stand before questions,
so that their keys are the same. The plug-in as it was trained, and with a share of each stage's
tokens chosen blind to the question (`reserve`); a uniform grid and DivPrune, which are blind, at
its budget.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.command import RESULTS, exit_status
from benchmarks.environment import environment
from rcp.atomic_write import atomic
from rcp.attaching.attach import attach
from rcp.backbones import backbone_for
from rcp.base_model.answering import greedy_answers
from rcp.base_model.loading import load_base
from rcp.choosing.keep_plan import KeepPlan
from rcp.conversations import ConversationCollator, ConversationDataset, LoadedSample
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin, PluginSpec, StageSpec

RESERVED = ((0.5, "uniform"), (0.5, "divprune"))
"""Shares of the budget for later questions, and who chooses for them."""


@dataclass(frozen=True)
class Row:
    """``first`` and ``second``: shares of second questions answered rightly where their own choice
    was made, and where the first one's was."""

    method: str
    first: float
    second: float
    n: int


def contestants(trained: Plugin, model: Any) -> dict[str, Plugin]:
    """By name, each at the budget of ``trained``."""
    def one_stage(method: str) -> Plugin:
        stages = [StageSpec(0, trained.mean_ratio, method)]
        return Plugin.for_model(PluginSpec(stages), model).eval()

    found = {"rcp": trained}
    for share, method in RESERVED:
        found[f"rcp, {share:.0%} by {method}"] = reserving(trained, model, share, method)
    return found | {"uniform": one_stage("uniform"), "divprune": one_stage("divprune")}


def reserving(trained: Plugin, model: Any, share: float, for_later: str) -> Plugin:
    """``trained`` with ``share`` of each stage's tokens chosen blind to the question."""
    chosen = {"share": share, "for_later": for_later}
    stages = [
        replace(stage, method="reserve", arguments={
            **chosen, "method": stage.method, "arguments": stage.arguments
        })
        for stage in trained.spec.stages
    ]
    plugin = Plugin.for_model(replace(trained.spec, stages=stages), model).eval()
    for stage in trained.spec.stages:
        learned = trained.pruner(stage.layer).state_dict()
        plugin.pruner(stage.layer).inner.load_state_dict(learned)
    if plugin.repair is not None and trained.repair is not None:
        plugin.repair.load_state_dict(trained.repair.state_dict())
    return plugin


def pairs_of(dataset: ConversationDataset, limit: int) -> list[tuple[int, int]]:
    """The first two questions of each image, by their numbers."""
    by_image: dict[Any, list[int]] = {}
    for number, sample in enumerate(dataset.samples):
        by_image.setdefault(sample.images, []).append(number)
    return [(asked[0], asked[1]) for asked in by_image.values() if len(asked) > 1][:limit]


class Asking:
    """Answers of ``model`` to batches of questions."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.backbone = backbone_for(model)
        self.collate = ConversationCollator(processor, 4096, with_answers=False)

    def inputs(self, items: Sequence[LoadedSample]) -> dict[str, Any]:
        return self.collate(items)["inputs"]

    def answers(self, inputs: dict[str, Any]) -> list[str]:
        return greedy_answers(self.model, self.processor, inputs, 8)

    def plan(self, plugin: Plugin, inputs: dict[str, Any]) -> KeepPlan:
        """What ``plugin`` keeps of the prompts ``inputs``."""
        with torch.no_grad(), attach(self.model, plugin) as handle, handle.trace() as trace:
            self.model(**inputs, use_cache=True, logits_to_keep=1)
        assert trace.plan is not None
        return trace.plan

    def carried(self, plan: KeepPlan, before: dict[str, Any], inputs: dict[str, Any]) -> KeepPlan:
        """``plan``, made of the prompts ``before``, for the prompts ``inputs`` on the same images.
        """
        old, new = (self.backbone.image_rows(one["input_ids"], None) for one in (before, inputs))
        alive = inputs["attention_mask"].bool().expand(len(plan.alive), -1, -1).clone()
        alive[:, new] = plan.alive[:, old]
        return replace(plan, alive=alive, visual=new)


def equal(said: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    """Which answers are those wanted, up to case and surrounding space."""
    return [a.strip().lower() == b.strip().lower() for a, b in zip(said, wanted)]


def measure(
    asking: Asking, dataset: ConversationDataset, plugins: dict[str, Plugin], limit: int, batch: int
) -> list[Row]:
    """The full model's row first."""
    pairs = pairs_of(dataset, limit)
    right: dict[str, list[list[bool]]] = {name: [[], []] for name in ("full model", *plugins)}
    for start in tqdm(range(0, len(pairs), batch), unit="batch"):
        firsts, seconds = (
            [dataset[pair[at]] for pair in pairs[start : start + batch]] for at in (0, 1)
        )
        before, inputs = asking.inputs(firsts), asking.inputs(seconds)
        wanted = [item.sample.answer for item in seconds]
        full = equal(asking.answers(inputs), wanted)
        for found in right["full model"]:
            found += full
        for name, plugin in plugins.items():
            own = asking.plan(plugin, inputs)
            other = asking.carried(asking.plan(plugin, before), before, inputs)
            for found, plan in zip(right[name], (own, other)):
                with attach(asking.model, plugin, plan=plan):
                    found += equal(asking.answers(inputs), wanted)
    return [
        Row(name, *(round(sum(found) / len(found), 4) for found in both), len(pairs))
        for name, both in right.items()
    ]


def page(rows: Sequence[Row], made: dict[str, str]) -> str:
    """Markdown."""
    lines = [f"| {row.method} | {row.first:.1%} | {row.second:.1%} | "
             f"{100 * (row.second - row.first):+.1f} |" for row in rows]
    return "\n".join([
        "# A second question on an image that the first one has pruned",
        "",
        f"{rows[0].n} pairs of test questions of the embedded model; right answers to the second "
        "one.",
        "",
        "| method | asked first | asked second | points |",
        "|---|---:|---:|---:|",
        *lines,
        "",
        "; ".join(f"{name}: {value}" for name, value in made.items()) + ".",
        "",
    ])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_turn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--plugin", type=Path, required=True, help="exported plug-in of the embedded model")
    add("--data", type=Path, default=Path("runs/data/test"), help="test questions")
    add("--limit", type=int, default=100, help="how many pairs")
    add("--batch-size", type=int, default=25)
    add("--output", type=Path, default=RESULTS / "second_turn.json", help="where results go")
    options = parser.parse_args(arguments)

    def work() -> None:
        trained = load_plugin(options.plugin).eval()
        assert trained.base is not None
        model, processor = load_base(trained.base.name_or_path, "float32")
        dataset = ConversationDataset(options.data)
        plugins = contestants(trained, model)
        rows = measure(
            Asking(model, processor), dataset, plugins, options.limit, options.batch_size
        )
        made = environment(["python", "-m", "benchmarks.second_turn", *arguments])
        with atomic(options.output) as unfinished:
            table = [vars(row) for row in rows]
            unfinished.write_text(json.dumps({"made": made, "rows": table}, indent=1) + "\n")
        text = page(rows, made)
        options.output.with_suffix(".md").write_text(text)
        print(text)

    return exit_status("second_turn", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
