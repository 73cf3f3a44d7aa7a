"""A budget by sample against a fixed count, at the same mean: `python -m benchmarks.calibrated`,
after `make quickstart`, from the repository's root.

The pruner before the decoder that the quickstart's guide has taught, and an untrained method that
ranks by a score, keep a fixed number of tokens, or what lies within a cut that `rcp calibrate`
finds on the validation questions. Draws (`model.policy`) then teach that pruner, and beside it how
many tokens a sample keeps, which is compared with a fixed number of those it ranks highest after
them. All answer the same test questions without any repair, and are compared in pairs. Results go
to results/calibrated.json and .md after every budget.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from rcp import attach
from rcp.atomic_write import atomic
from rcp.attaching.given_images import given_images
from rcp.conversations import ConversationDataset
from rcp.evaluation.paired import paired
from rcp.evaluation.preparation import conversation_batches
from rcp.evaluation.report import tables
from rcp.evaluation.studies.calibration import calibrated
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin, PluginSpec, StageSpec

BASE = "data/tiny-vlm"
BUDGETS = {"N/9": 1 / 9, "N/18": 1 / 18, "N/36": 1 / 36}
UNTRAINED = "question_attention"
RECIPE = "rcp_tiny_policy.yaml"
STEPS, BATCH = 300, 16
FEWEST, MOST = 0.25, 4.0
VALIDATION = 400


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("calibrated", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Calibrate, answer and write what ``options`` ask for."""
    questions = Questions(BASE, options.data, options.limit, options.runs / "answers")
    validation = list(conversation_batches(
        questions.processor, ConversationDataset(options.validation), VALIDATION, 50,
        with_answers=False,
    ))
    rows = [_row("full model", questions, questions.right("full", None), None, None)]
    for budget in options.budgets:
        ratio = BUDGETS[budget]
        for method, plugin in entrants(questions.model, options.guide, ratio).items():
            cut = calibrated(questions.model, plugin, validation, FEWEST, MOST)
            fixed, own = (
                questions.right(f"{budget} {method} {way}", one)
                for way, one in (("fixed", plugin), ("calibrated", cut))
            )
            name = f"{budget} `{method}`"
            rows.append(_row(f"{name}, fixed count", questions, fixed, plugin, None))
            rows.append(_row(f"{name}, calibrated", questions, own, cut, fixed))
        drawn = load_plugin(_trained(budget, ratio, options)).eval()
        counted = calibrated(questions.model, drawn, validation, FEWEST, MOST)
        alike = with_fixed_count(drawn)
        fixed, own = (
            questions.right(f"{budget} drawn {way}", one)
            for way, one in (("fixed", alike), ("learned", counted))
        )
        name = f"{budget} `rcp` after draws"
        rows.append(_row(f"{name}, fixed count", questions, fixed, alike, None))
        rows.append(_row(f"{name}, learned count", questions, own, counted, fixed))
        _write(rows, options.output, arguments)
    print(f"Results in {options.output}, and in .md beside it")


def counting(recipe: Configuration, ratio: float, guide: Path) -> Configuration:
    """``recipe``, draws alone, for one stage that ``guide`` has taught and whose count is learned.
    """
    stage = {**recipe["model"]["plugin"]["stages"][0], "ratio": ratio}
    count = {"fewest": FEWEST, "most": MOST}
    return validated_once(changed(recipe, {
        "model.plugin": {"stages": [stage], "selection": "learned", "count": count},
        "model.guide": None,
        "model.pruners_from": str(guide),
        "model.policy.share": 1.0,
        "data.batch_size": BATCH,
        "trainer.max_steps": STEPS,
    }))


def with_fixed_count(plugin: Plugin) -> Plugin:
    """The pruners of ``plugin``, which keep as many tokens of every sample."""
    spec = replace(plugin.spec, selection="top_k", count=None)
    found = Plugin(spec, plugin.hidden_size, plugin.num_layers)
    found.pruners.load_state_dict(plugin.pruners.state_dict())
    found.base = plugin.base
    return found.eval()


def _trained(budget: str, ratio: float, options: argparse.Namespace) -> Path:
    made = counting(read_configuration(CONFIGS / RECIPE), ratio, options.guide)
    run = options.runs / budget.replace("/", "_")
    return trained_plugin(
        write_configuration(made, run.with_suffix(".yaml")), run, 0, options.train
    )


def entrants(model: Any, guide: Path, ratio: float) -> dict[str, Plugin]:
    """One stage before the decoder each: the first of the plug-in ``guide``, and an untrained."""
    taught = load_plugin(guide)
    first = replace(taught.spec.stages[0], ratio=ratio)
    spec = PluginSpec([first])
    trained = Plugin(spec, taught.hidden_size, taught.num_layers)
    own = {name: tensor for name, tensor in taught.pruners.state_dict().items()
           if name.startswith(f"{first.layer}.")}
    trained.pruners.load_state_dict(own)
    trained.base = taught.base
    untrained = Plugin.for_model(PluginSpec([StageSpec(0, ratio, UNTRAINED)]), model)
    return {first.method: trained.eval(), UNTRAINED: untrained.eval()}


@torch.no_grad()
def counts(questions: Questions, plugin: Plugin) -> list[int]:
    """How many visual tokens of each question enter the decoder."""
    found: list[int] = []
    for batch, features in questions.batches:
        with given_images(questions.model, features), attach(questions.model, plugin, "drop") as on:
            with on.trace() as trace:
                questions.model(**batch["inputs"])
        assert trace.plan is not None
        found += trace.plan.kept[0].tolist()
    return found


def _row(
    name: str, questions: Questions, own: Right, plugin: Plugin | None, fixed: Right | None
) -> dict[str, Any]:
    kept = counts(questions, plugin) if plugin is not None else []
    kinds, right = np.array(questions.kinds), np.array(own, dtype=float)
    found: dict[str, Any] = {
        "row": name,
        "questions": len(own),
        "accuracy": round(right.mean(), 6),
        "tokens": round(float(np.mean(kept)), 3) if kept else None,
        "by_type": {
            kind: {"accuracy": round(right[kinds == kind].mean(), 6),
                   "tokens": round(np.array(kept)[kinds == kind].mean(), 2) if kept else None}
            for kind in sorted(set(questions.kinds))
        },
    }
    if fixed is not None:
        against = paired(right, np.array(fixed, dtype=float))
        found["against fixed"] = {"interval": against.interval, "p": float(f"{against.p:.3g}")}
    return found


def _write(rows: Sequence[dict[str, Any]], output: Path, arguments: Sequence[str]) -> None:
    made = environment(["python", "-m", "benchmarks.calibrated", *arguments])
    with atomic(output) as unfinished:
        unfinished.write_text(json.dumps({"made": made, "rows": rows}, indent=2) + "\n")
    kinds = list(rows[0]["by_type"])
    cells = [["row", "accuracy %", "tokens", "95 % interval", "p", *kinds]]
    for row in rows:
        against = row.get("against fixed")
        low, high = against["interval"] if against else (0.0, 0.0)
        cells.append([
            row["row"], f"{100 * row['accuracy']:.1f}",
            f"{row['tokens']:.2f}" if row["tokens"] else "",
            f"{100 * low:+.1f} to {100 * high:+.1f}" if against else "",
            f"{against['p']:.2g}" if against else "",
            *(_of_type(row["by_type"][kind]) for kind in kinds),
        ])
    facts = [f"- {name}: {value}" for name, value in made.items()]
    output.with_suffix(".md").write_text("\n".join([
        "# A budget by sample",
        "",
        *facts,
        "",
        f"{rows[0]['questions']} test questions, one stage before the decoder. Cuts calibrated on "
        f"{VALIDATION} validation questions, counts from {FEWEST:g} to {MOST:g} times the mean. "
        f"Interval (points) and p (McNemar, exact) of the difference to the fixed count. By type: "
        f"accuracy % and, in brackets, tokens. After draws: {STEPS} steps of {BATCH} questions "
        f"more, which teach the pruner and, where it is learned, the count.",
        "",
        tables.markdown(cells),
    ]) + "\n")


def _of_type(found: dict[str, float | None]) -> str:
    share = f"{100 * (found['accuracy'] or 0.0):.1f}"
    return f"{share} ({found['tokens']:.1f})" if found["tokens"] else share


def _parser() -> argparse.ArgumentParser:
    made = parser("calibrated", __doc__, "runs/calibrated")
    add = made.add_argument
    add("--guide", type=Path, default=Path("runs/quickstart/plugin"),
        help="exported plug-in whose first pruner a guide has taught")
    add("--budgets", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), metavar="NAME",
        help=f"only these: {', '.join(BUDGETS)}")
    add("--validation", type=Path, default=Path("runs/data/validation"),
        help="questions that cuts are calibrated on")
    add("--limit", type=int, default=2000, help="how many of the test questions (2000)")
    add("--output", type=Path, default=RESULTS / "calibrated.json", help="where results go")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
