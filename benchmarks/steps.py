"""The steps that benchmarks are made of, each skipped where it is done: training, evaluation."""

import json
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.variants import (
    Configuration,
    Variant,
    validated_once,
    write_configuration,
)
from rcp.atomic_write import atomic
from rcp.errors import UserError
from rcp.evaluation import cli
from rcp.evaluation.comparison import Report
from rcp.evaluation.report.rows import ResultRow

SECONDS = "seconds.json"


def trained_plugin(config: str | Path, run: Path, seed: int, changes: Sequence[str] = ()) -> Path:
    """The exported plug-in of one training, trained unless it is there already.

    A training that was cut off goes on from its last checkpoint. ``changes`` are further
    arguments of train.py.
    """
    plugin = run / "plugin"
    if plugin.is_dir():
        return plugin
    last = run / "last.ckpt"
    before = training_seconds(run)
    if last.is_file():
        changes = [*changes, "--ckpt_path", str(last)]
    else:
        shutil.rmtree(run, ignore_errors=True)  # cut off before there was anything to go on from
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
    start = time.monotonic()
    run_script("train.py", "--config", str(config), "--run_folder", str(run), *seeds, *changes)
    with atomic(run / SECONDS) as unfinished:
        unfinished.write_text(json.dumps(before + time.monotonic() - start))
    run_script("export.py", "--checkpoint", str(run / "best.ckpt"), "--output", str(plugin))
    return plugin


def trained_plugins(
    variant: Variant, configuration: Configuration, options: Namespace
) -> list[Path]:
    """The exported plug-ins of one row, a seed each, in ``options.runs``; the row that has taught
    their pruners must be there already."""
    folder = options.runs / variant.name
    config = write_configuration(validated_once(configuration), folder / "recipe.yaml")
    return [
        trained_plugin(config, folder / f"seed{seed}", seed,
                       [*variant.start(options.runs, seed), *options.train])
        for seed in range(min(variant.seeds, options.seeds))
    ]


def training_seconds(run: Path) -> float:
    """What the training in ``run`` took, its validation included; parts cut off do not count."""
    file = run / SECONDS
    return float(_read(file)) if file.is_file() else 0.0


def compared(
    folder: Path,
    plugins: Sequence[Path],
    others: Mapping[str, Sequence[Path]],
    arguments: Sequence[str],
) -> Report:
    """The evaluation of ``plugins`` (seeds of one method) and of ``others`` by name.

    ``arguments`` are further ones of evaluate.py. The report is kept in ``folder``, and made anew
    when it was asked for with other arguments.
    """
    named = [f"{name}={path}" for name, paths in others.items() for path in paths]
    question = [
        *("--plugin", *map(str, plugins)),
        *(("--compare", *named) if named else ()),
        *("--output", str(folder / "rows.json")),
        *arguments,
    ]
    finished = folder / "report.json"
    if finished.is_file():
        found = _read(finished)
        if found["question"] == question:
            return Report([ResultRow(**row) for row in found["rows"]], found["notes"])
    report = cli.run(question)
    with atomic(finished) as unfinished:
        unfinished.write_text(json.dumps(asdict(report) | {"question": question}))
    return report


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(
            f"'{file}' is damaged ({error}). Remove it: what it tells is then found out again."
        ) from error


def run_script(script: str, *arguments: str) -> None:
    """Run a script of the repository's root; raises ``CalledProcessError`` if it fails."""
    print("$", script, *arguments, flush=True)
    subprocess.run([sys.executable, script, *arguments], check=True)
