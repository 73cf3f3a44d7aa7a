"""Every part of RCP left out in turn: `python -m benchmarks.ablation`, from the repository's root.

Each row below is the recipe of a configuration, shortened, with one thing changed. All rows share
one cache of what the frozen model computes. Finished runs are skipped, a training that was cut off
goes on; `--rows` picks some, so that two processes can share the work. What is finished goes to
results/rcp_ablation.json, .md and .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.command import exit_status, variants_parser
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugins, training_seconds
from benchmarks.variants import CONFIGS, Variant, changed, read_configuration
from rcp.atomic_write import atomic
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow
from rcp.folder.read_write import load_plugin

RECIPE = "rcp_tiny.yaml"
GUIDED_STEPS, END_TO_END_STEPS = 560, 140
SHORTENED = {
    "model.teacher_cache": "runs/teacher_cache",
    "model.gradient_shares_every": 0,
    "trainer.max_steps": GUIDED_STEPS + END_TO_END_STEPS,
}
"""A bit over half of the recipe, in its own proportion of the two stages. The guide teaches each
kind of pruner once a seed: rows that change nothing of the pruners start from taught ones."""

GUIDE_ALONE = {"model.guide.share": 1.0, "trainer.max_steps": GUIDED_STEPS}
PRUNERS_LEARN = {"model.optimizer.pruners": 1.0, "model.margin": 3.0,
                 "model.temperature": {"start": 0.25, "end": 0.25, "noise": 0.0}}
"""End to end, at the repair's rate; tokens near the cut take part softly, so that they can rise."""

ENTRY_ALONE = {"model.guide": None, "model.optimizer.pruners": 1.0, "model.margin": None,
               "trainer.max_steps": 4 * END_TO_END_STEPS}
TEMPERED = {"start": 2.0, "end": 0.1, "fall_until": 1.0, "noise": 0.0}
"""As published for a noise gate."""

LORA = {"rank": 12, "alpha": 12.0, "targets": ["q_proj", "v_proj"]}
"""In all layers 110 592 weights: as many as the repair adapter within half a percent."""

WITHOUT = {"model.plugin.repair": None}
TAUGHT_BY = "no_adapter"
HARSH = 1 / 36
"""4 of 144 tokens, mean over layers: the smallest budget of benchmarks/sweep.py."""

LONG = 1000
AT_LENGTH = {"trainer.max_steps": LONG}
"""What a repair that has learned too little would need."""

ROWS = (
    Variant(TAUGHT_BY, "no repair adapter and no repair loss: the guided pruner alone", 3,
            {**WITHOUT, **GUIDE_ALONE}),
    Variant("rcp", "all of it", 3, taught_by=TAUGHT_BY),
    Variant("no_guide", "the task alone teaches the pruners; twice the steps end to end", 3,
            {"model.guide": None, **PRUNERS_LEARN, "trainer.max_steps": 2 * END_TO_END_STEPS}),
    Variant("no_guide_entry", "likewise, one stage before the decoder, without a repair", 1,
            {**WITHOUT, **ENTRY_ALONE, "model.temperature": TEMPERED}, layers=(0,)),
    Variant("noise_gate", "likewise, tokens mixed with noise in place of a straight-through "
            "gradient", 1,
            {**WITHOUT, **ENTRY_ALONE, "model.temperature": TEMPERED,
             "model.noise_gate": {"inner": 96}}, layers=(0,)),
    Variant("no_repair_loss", "adapter without the repair loss", 3,
            {"model.loss.repair": 0.0}, taught_by=TAUGHT_BY),
    Variant("mean_only", "repair loss without its variance term", 3,
            {"model.loss.variance": 0.0}, taught_by=TAUGHT_BY),
    Variant("literal_moments", "repair loss as written, not in units of the teacher's spread", 3,
            {"model.loss.normalised": False}, taught_by=TAUGHT_BY),
    Variant("no_intrinsic", "pruner without the intrinsic attention", 1,
            arguments={"intrinsic": False}),
    Variant("intrinsic_only", "pruner without learned residual: the intrinsic attention alone", 3,
            method="question_attention"),
    Variant("literal_scale", "cross-attention score as written, about 1/N", 1,
            arguments={"literal_scale": True}),
    Variant("blind", "question zeroed", 1, arguments={"blind": True}),
    Variant("lora", "low-rank adapters of the adapter's size in its place, no repair loss", 3,
            {**WITHOUT, "model.plugin.lora": LORA}, taught_by=TAUGHT_BY),
    Variant("harsh", "all of it, 97.2 % of the tokens removed", 3, mean_ratio=HARSH,
            taught_by=TAUGHT_BY),
    Variant("harsh_no_adapter", "the same pruner there, without repair adapter and loss", 3,
            {**WITHOUT, **GUIDE_ALONE}, mean_ratio=HARSH),
    Variant("harsh_lora", "low-rank adapters there in the adapter's place, no repair loss", 3,
            {**WITHOUT, "model.plugin.lora": LORA}, mean_ratio=HARSH, taught_by=TAUGHT_BY),
    Variant("harsh_long", f"all of it there, {LONG} steps end to end", 1, AT_LENGTH,
            mean_ratio=HARSH, taught_by=TAUGHT_BY),
    Variant("harsh_early_text", "likewise, repair of all text rows at layers 3 and 6", 1,
            {**AT_LENGTH, "model.plugin.repair.layers": [3, 6], "model.plugin.repair.rows": "text"},
            mean_ratio=HARSH, taught_by=TAUGHT_BY),
    Variant("w2", "repair loss compares standard deviations", 1, {"model.loss.form": "w2"},
            taught_by=TAUGHT_BY),
    Variant("one_repair_layer", "repair at the later layer only", 1,
            {"model.plugin.repair.layers": [22]}, taught_by=TAUGHT_BY),
    Variant("early_repair", "repair at layers 3 and 6", 1,
            {"model.plugin.repair.layers": [3, 6]}, taught_by=TAUGHT_BY),
    Variant("mid_repair", "repair at layers 10 and 13", 1,
            {"model.plugin.repair.layers": [10, 13]}, taught_by=TAUGHT_BY),
    Variant("one_stage", "one stage, same mean", 1, layers=(0,), taught_by=TAUGHT_BY),
    Variant("two_stages", "two stages, same mean", 1, layers=(0, 12), taught_by=TAUGHT_BY),
    Variant("pruners_end_to_end", "pruners learn with the repair, after the guide", 1,
            PRUNERS_LEARN, taught_by=TAUGHT_BY),
    Variant("full_masking", "likewise, all tokens masked in training, none dropped", 1,
            {**PRUNERS_LEARN, "model.margin": None}, taught_by=TAUGHT_BY),
    Variant("threshold", "keeps z > 0 with the budget loss, in place of top-k; pruners learn", 1,
            {"model.plugin.selection": "threshold", **PRUNERS_LEARN}, taught_by=TAUGHT_BY),
    Variant("text_rows", "repair on all text rows", 1,
            {"model.plugin.repair.rows": "text"}, taught_by=TAUGHT_BY),
    Variant("kl", "KL divergence to the teacher's answers added", 1,
            {"model.loss.distillation": 1.0}, taught_by=TAUGHT_BY),
    Variant("random_last_stage", "random tokens in the last stage", 1, method="random",
            last_only=True, taught_by=TAUGHT_BY),
    Variant("random_drops", "repair trained on random tokens in all stages", 1, method="random"),
)


@dataclass(frozen=True)
class Result:
    """A row of the table: how the variant did, and what it cost.

    ``row`` as evaluate.py has it; ``parameters``: trained ones; ``training_seconds``: mean over
    seeds, validation and the guide that has taught the pruners included.
    """

    name: str
    about: str
    row: ResultRow
    parameters: int
    training_seconds: float


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("ablation", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, evaluate and write what ``options`` ask for."""
    results, notes = ablation(options)
    _write(results, notes, options.output, arguments)
    print(f"Results in {options.output}, and in .md and .png beside it")


def ablation(options: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Train and evaluate what ``options`` ask for; the full model comes first."""
    chosen = [variant for variant in ROWS if variant.name in options.rows]
    recipe = changed(read_configuration(CONFIGS / options.recipe), SHORTENED)
    plugins = {
        variant.name: trained_plugins(variant, variant.of(recipe), options) for variant in chosen
    }
    # evaluate.py names the first one by its method, "rcp": only the row so called may stand there
    first = "rcp" if "rcp" in plugins else next(iter(plugins))
    others = {name: found for name, found in plugins.items() if name != first}
    evaluated = ["--data", str(options.data), "--limit", str(options.limit), "--no-controls"]
    report = compared(options.runs, plugins[first], others, [*evaluated, *options.evaluate])
    full, *rows = report.rows
    row_of = dict(zip([first, *others], rows, strict=True))
    results = [Result("full", "the model without a plug-in", full, 0, 0.0)]
    for variant in chosen:
        runs = [plugin.parent for plugin in plugins[variant.name]]
        seconds = [training_seconds(run) for run in runs]
        if variant.taught_by:
            guides = [options.runs / variant.taught_by / run.name for run in runs]
            seconds = [own + training_seconds(guide) for own, guide in zip(seconds, guides)]
        results.append(
            Result(
                variant.name,
                variant.about,
                row_of[variant.name],
                _parameters(plugins[variant.name][0]),
                round(sum(seconds) / len(seconds), 1),
            )
        )
    return results, report.notes


def _parameters(plugin: Path) -> int:
    return sum(parameter.numel() for parameter in load_plugin(plugin).parameters())


def _write(
    results: Sequence[Result], notes: Sequence[str], output: Path, arguments: Sequence[str]
) -> None:
    made = environment(["python", "-m", "benchmarks.ablation", *arguments])
    values: dict[str, Any] = {"made": made, "rows": [asdict(result) for result in results]}
    with atomic(output) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
    lines = ["# RCP, part by part", "", *(f"- {name}: {value}" for name, value in made.items())]
    lines += ["", tables.markdown(_cells(results)), "", *notes]
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    figures.bars(
        [result.name for result in results],
        [100 * result.row.accuracy for result in results],
        [100 * result.row.accuracy_std for result in results],
        "accuracy %",
        output.with_suffix(".png"),
    )


def _cells(results: Sequence[Result]) -> list[list[str]]:
    header = ["row", "accuracy %", "retained %", "mean tokens", "GFLOPs", "parameters",
              "training s", "seeds", "what is different"]
    return [header] + [
        [
            result.name,
            f"{100 * result.row.accuracy:.1f}" + (
                f" ± {100 * result.row.accuracy_std:.1f}" if result.row.seeds > 1 else ""
            ),
            f"{100 * result.row.retained:.1f}",
            f"{result.row.mean_tokens:.1f}",
            f"{result.row.flops / 1e9:.3f}",
            f"{result.parameters:,}".replace(",", " "),
            f"{result.training_seconds:.0f}",
            str(result.row.seeds),
            result.about,
        ]
        for result in results
    ]


def _parser() -> argparse.ArgumentParser:
    names = [variant.name for variant in ROWS]
    return variants_parser("ablation", __doc__, RECIPE, "rcp_ablation.json", names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
