"""Two processes against one: `python -m benchmarks.ddp`, from the root of the repository.

Trains configs/quickstart.yaml on the questions of `make data`, once a seed in one process and once
in two that have half of each batch. Data order, batches and schedules are the same, and the choice
of tokens has no noise, which each process would draw for itself: losses should differ by rounding
alone, and accuracies by no more than those of two seeds. Finished steps are skipped, a training
that was cut off goes on from its last checkpoint. Rows go to results/ddp.json, the tables and the
comparison to results/ddp.md.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugin
from benchmarks.variants import read_configuration
from rcp.evaluation.comparison import Report
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow, write_rows

CONFIG = Path("configs/quickstart.yaml")
SHARED = [
    *("--model.loss.repair", "0.03"),  # its statistics are of all processes' rows
    *("--model.temperature.noise", "0"),
]
ONE, TWO = "one_process", "two_processes"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("ddp", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, evaluate and write what ``options`` ask for."""
    plugins = {
        name: [
            trained_plugin(CONFIG, options.runs / name / f"seed{seed}", seed,
                           [*SHARED, *spread(processes), *options.train])
            for seed in options.seeds
        ]
        for name, processes in ((ONE, 1), (TWO, 2))
    }
    evaluated = ["--data", str(options.data), "--no-controls", *options.evaluate]
    report = compared(options.runs, plugins[ONE], {TWO: plugins[TWO]}, evaluated)
    write_rows(report.rows, options.output)
    options.output.with_suffix(".md").write_text(_page(report, options, arguments))
    print(f"Rows in {options.output}, tables in {options.output.with_suffix('.md')}")


def spread(processes: int) -> list[str]:
    """Arguments of train.py that share the batches of the recipe among CPU processes."""
    data = read_configuration(CONFIG)["data"]
    strategy = "ddp_find_unused_parameters_true" if processes > 1 else "auto"
    return [
        *("--trainer.accelerator", "cpu"),
        *("--trainer.devices", str(processes)),
        *("--trainer.strategy", strategy),
        *("--data.batch_size", str(data["batch_size"] // processes)),
        *("--data.val_batch_size", str(data["val_batch_size"] // processes)),
    ]


def verdict(one: ResultRow, two: ResultRow) -> str:
    """How far apart the accuracies are, in units of what seeds do."""
    apart = 100 * abs(two.accuracy - one.accuracy)
    noise = 100 * ((one.accuracy_std**2 + two.accuracy_std**2) / 2) ** 0.5
    if min(one.seeds, two.seeds) < 2:
        return f"One and two processes: {apart:.2f} points apart; one seed says nothing of noise."
    return (
        f"One and two processes: {apart:.2f} points apart, "
        f"{'within' if apart <= noise else 'beyond'} the {noise:.2f} points (standard deviation) "
        "by which seeds differ."
    )


def farthest(one: Path, two: Path) -> float:
    """The largest relative difference of the logged training losses of two runs."""
    losses = [_losses(run) for run in (one, two)]
    steps = losses[0].keys() & losses[1].keys()
    return max(abs(losses[1][step] / losses[0][step] - 1) for step in steps)


def _losses(run: Path) -> dict[str, float]:
    """The training loss by step, over all parts of a training that was cut off."""
    found: dict[str, float] = {}
    for part in sorted(run.glob("logs/version_*/metrics.csv")):
        with part.open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
        found |= {row["step"]: float(row["train/loss"]) for row in rows}
    return found


def _page(report: Report, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    made = environment(["python", "-m", "benchmarks.ddp", *arguments])
    _, one, two = report.rows
    lines = ["# Two processes against one", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    lines += ["", f"`{one.method}` was trained in one process.", ""]
    lines += [tables.markdown(tables.summary(report.rows)), ""]
    lines += [tables.markdown(tables.by_type(report.rows)), "", verdict(one, two), ""]
    for seed in options.seeds:
        difference = farthest(*(options.runs / name / f"seed{seed}" for name in (ONE, TWO)))
        lines.append(f"- seed {seed}: logged losses differ by at most {difference:.1e}, relative")
    return "\n".join([*lines, "", *report.notes]) + "\n"


def _parser() -> argparse.ArgumentParser:
    made = parser("ddp", __doc__, "runs/ddp")
    add = made.add_argument
    add("--output", type=Path, default=RESULTS / "ddp.json", help="where the rows go")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
