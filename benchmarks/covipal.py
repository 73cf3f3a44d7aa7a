"""CoViPAL on the embedded model: `python -m benchmarks.covipal`, from the root of the repository.

Both stages, each alone, stage 1 with the paper's label, the variant without text, CoViPAL followed
by RCP's stages and repair, and RCP alone at the same mean tokens; beside them the oracle (a layer's
own attention, which costs a full pass) and the controls of evaluate.py. All runs share one cache of
what the frozen model computes. Finished runs are skipped, a training that was cut off goes on;
`--rows` picks some, so that several processes can share the work. Rows go to results/covipal.json,
tables to results/covipal.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import exit_status, variants_parser
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugins, training_seconds
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    Variant,
    changed,
    read_configuration,
)
from rcp import __main__ as commands
from rcp.evaluation.comparison import Report
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow, write_rows

SHARED = {"model.gradient_shares_every": 0}

RECIPE, ORACLE = "covipal_tiny.yaml", "oracle"
GUIDED_STEPS, END_TO_END_STEPS = 990, 110
"""The lengths of the two stages in the recipe."""

GUIDE = 9
"""The best layer of `python -m rcp guide-layer --base data/tiny-vlm --budget 16` on validation."""

STAGE_1, BOTH = "stage_1_only", "covipal"
LABELLED = "attention_label_stage_1"
ALONE = {"model.guide.share": 1.0, "model.retention": None, "trainer.max_steps": GUIDED_STEPS}
FASTER = {"model.optimizer.learning_rate": 2e-4}
"""Stage 2 where there is more to learn than to lose: ten times the recipe's rate."""

ROWS = (
    Variant(STAGE_1, "stage 1 alone", 3, ALONE),
    Variant(BOTH, "both stages: stage 2 on the pruners of stage 1", 3, taught_by=STAGE_1),
    Variant("stage_2_only", "stage 2 alone", 1,
            {"model.guide": None, "trainer.max_steps": END_TO_END_STEPS, **FASTER}),
    Variant(LABELLED, f"stage 1 alone, with the attention of layer {GUIDE} as label", 3,
            {"model.guide.layer": GUIDE, **ALONE}),
    Variant("attention_label", "both stages, with that label", 3, FASTER, taught_by=LABELLED),
    Variant("text_free", "both stages, without the question", 1, arguments={"text": False}),
)
COMPOSED = Variant("covipal_rcp", "stage 1 before the decoder, then RCP's stages and repair", 3,
                   taught_by=STAGE_1)
RCP_ALONE = Variant("rcp", "RCP's own three stages and repair", 3)
RCP_RECIPE = "rcp_tiny.yaml"
ALL = (*ROWS, COMPOSED, RCP_ALONE)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("covipal", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, evaluate and write what ``options`` ask for."""
    report = _report(options)
    write_rows(report.rows, options.output)
    options.output.with_suffix(".md").write_text(_page(report, options, arguments))
    print(f"Rows in {options.output}, tables in {options.output.with_suffix('.md')}")


def _report(options: argparse.Namespace) -> Report:
    """CoViPAL, which brings the controls, comes first."""
    recipe = changed(read_configuration(CONFIGS / options.recipe), SHARED)
    plugins = {
        name: trained_plugins(variant, configuration, options)
        for name, (variant, configuration) in configurations(recipe).items()
        if name in options.rows
    }
    first = plugins.pop(BOTH if BOTH in plugins else next(iter(plugins)))
    plugins[ORACLE] = [_oracle(recipe, options.runs / ORACLE)]
    evaluated = ["--data", str(options.data), "--limit", str(options.limit)]
    return compared(options.runs, first, plugins, [*evaluated, *options.evaluate])


def configurations(recipe: Configuration) -> dict[str, tuple[Variant, Configuration]]:
    """Each row with the configuration it trains, by name."""
    found = {variant.name: (variant, variant.of(recipe)) for variant in ROWS}
    rcp = changed(read_configuration(CONFIGS / RCP_RECIPE), SHARED)
    found[RCP_ALONE.name] = RCP_ALONE, rcp
    first, *later = rcp["model"]["plugin"]["stages"]
    own = recipe["model"]["plugin"]["stages"][0]
    stages = [own | {"layer": first["layer"], "ratio": first["ratio"]}, *later]
    found[COMPOSED.name] = COMPOSED, COMPOSED.of(changed(rcp, {"model.plugin.stages": stages}))
    return found


def _oracle(recipe: Configuration, folder: Path) -> Path:
    """A plug-in that keeps what layer GUIDE attends to, at the recipe's budget."""
    model = recipe["model"]
    stage = model["plugin"]["stages"][0]
    described = f"{stage['layer']}:{ORACLE}:{stage['ratio']}:layers=[{GUIDE}]"
    if not folder.is_dir():
        commands.main(
            ["compose", "--base", model["base"], "--stage", described, "--output", str(folder)]
        )
    return folder


def _page(report: Report, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    made = environment(["python", "-m", "benchmarks.covipal", *arguments])
    lines = ["# CoViPAL on the embedded model", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    lines += ["", tables.markdown(tables.summary(report.rows)), "", _gap(report.rows)]
    lines += ["", tables.markdown(tables.by_type(report.rows)), "", *report.notes, ""]
    for variant in ALL:
        if variant.name in options.rows:
            runs = (options.runs / variant.name).glob("seed*")
            seconds = [training_seconds(run) for run in runs]
            mean = sum(seconds) / len(seconds)
            lines.append(f"- {variant.name}: {variant.about}; {mean:.0f} s of training a seed")
    return "\n".join(lines) + "\n"


def _gap(rows: Sequence[ResultRow]) -> str:
    first = rows[1]
    (oracle,) = [row for row in rows if row.method == ORACLE]
    points = 100 * (oracle.accuracy - first.accuracy)
    return (
        f"Oracle (top-k of layer {GUIDE}'s own attention, which costs a full pass): {points:+.1f} "
        f"points against {first.method}."
    )


def _parser() -> argparse.ArgumentParser:
    names = [variant.name for variant in ALL]
    return variants_parser("covipal", __doc__, RECIPE, "covipal.json", names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
