"""RCP on the embedded model: `python -m benchmarks.tiny`, from the root of the repository.

At each budget it trains one plug-in a seed, and one control whose repair adapter is trained on
random drops; exports them; and evaluates all of them on the test questions. Finished steps are
skipped, a training that was cut off goes on from its last checkpoint. The rows of both budgets go
to results/tiny.json, the tables and how they were made to results/tiny.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import RESULTS, exit_status, parser
from benchmarks.environment import environment
from benchmarks.steps import compared, trained_plugin
from benchmarks.variants import CONFIGS, read_configuration
from rcp.evaluation.comparison import Report
from rcp.evaluation.contestants import BLANK_IMAGE, FULL
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow, write_rows

BUDGETS = {"N/9": "rcp_tiny.yaml", "N/18": "rcp_tiny_n18.yaml"}


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or that of the step that failed."""
    options = _parser().parse_args(arguments)
    return exit_status("tiny", lambda: benchmark(options, arguments))


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train, evaluate and write what ``options`` ask for."""
    reports = {
        budget: _budget(config, options.runs / Path(config).stem, options)
        for budget, config in BUDGETS.items()
    }
    write_rows(merged([report.rows for report in reports.values()]), options.output)
    options.output.with_suffix(".md").write_text(_page(reports, arguments))
    print(f"Rows in {options.output}, tables in {options.output.with_suffix('.md')}")


def merged(results: Sequence[Sequence[ResultRow]]) -> list[ResultRow]:
    """The rows of all budgets; those without pruning, which are the same in each, only once."""
    first, *others = results
    return [*first, *(row for rows in others for row in rows if not _unpruned(row))]


def random_drops(config: Path) -> list[str]:
    """Changes that put random tokens in place of a pruner's choice, which nobody has to learn."""
    recipe = read_configuration(config)
    stages = recipe["model"]["plugin"]["stages"]
    stages = [stage | {"method": "random", "arguments": {}} for stage in stages]
    guide = recipe["model"].get("guide") or {"share": 0.0}
    steps = round(recipe["trainer"]["max_steps"] * (1 - guide["share"]))
    return [
        *("--model.plugin.stages", json.dumps(stages)),
        *("--model.guide", "null"),
        *("--trainer.max_steps", str(steps)),
    ]


def _unpruned(row: ResultRow) -> bool:
    return row.method in (FULL, BLANK_IMAGE)


def _budget(config: str, folder: Path, options: argparse.Namespace) -> Report:
    plugins = [
        trained_plugin(config, folder / f"seed{seed}", seed, options.train)
        for seed in options.seeds
    ]
    changes = [*random_drops(CONFIGS / config), *options.train]
    control = trained_plugin(config, folder / "random_repair", 0, changes)
    arguments = ["--data", str(options.data), *options.evaluate]
    return compared(folder, plugins, {"random_repair": [control]}, arguments)


def _page(reports: dict[str, Report], arguments: Sequence[str]) -> str:
    made = environment(["python", "-m", "benchmarks.tiny", *arguments])
    lines = ["# RCP on the embedded model", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    for budget, report in reports.items():
        lines += ["", f"## {budget} visual tokens, mean over layers", ""]
        lines += [tables.markdown(tables.summary(report.rows)), ""]
        lines += [tables.markdown(tables.by_type(report.rows)), ""]
        lines += report.notes
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    made = parser("tiny", __doc__, "runs/benchmark")
    add = made.add_argument
    add("--output", type=Path, default=RESULTS / "tiny.json", help="where the rows go")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
