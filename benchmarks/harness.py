"""What lmms-eval measures with the model `rcp`, beside evaluate.py: the same, sample by sample.

    make test-harness

The full model and the plug-in of `make quickstart` answer the same questions: in evaluate.py, and
in lmms-eval by its chat and by its simple protocol. A task of choices takes, by their
log-probabilities, one of all answers to questions of the type instead of generating one, and has
no counterpart in evaluate.py. Fails where a generated answer or its score differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import evaluate
from benchmarks.command import RESULTS, exit_status
from benchmarks.environment import environment
from rcp.base_model.answering import greedy_answers
from rcp.errors import UserError
from rcp.evaluation.report import tables

BASE = Path("data/tiny-vlm")
TASKS = Path("tests/harness")
DATA = Path("runs/data/test")
NAMES = {"full": "full model", "rcp": "plug-in"}
EQUAL = ("equal answers", "equal scores")
"""Columns that must be n where there is something to compare."""


class Heard(NamedTuple):
    """What evaluate.py reports of one contestant, and what that has answered, in order."""

    accuracy: float
    answers: list[str]


def evaluated(plugin: Path, limit: int) -> dict[str, Heard]:
    """Of the full model and the plug-in, by the names of their rows."""
    batches: list[list[str]] = []

    def hearing(*arguments: Any, **options: Any) -> list[str]:
        batches.append(greedy_answers(*arguments, **options))
        return batches[-1]

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "rows.json"
        line = ["--plugin", str(plugin), "--data", str(DATA), "--limit", str(limit),
                "--no-controls", "--output", str(output)]
        with mock.patch("rcp.evaluation.generation.greedy_answers", hearing):
            if evaluate.main(line):
                raise UserError("evaluate.py has failed, as it says above.")
        rows = json.loads(output.read_text())
    return {
        row["method"]: Heard(row["accuracy"], sum(batches[number :: len(rows)], []))
        for number, row in enumerate(rows)  # they answer each batch in turn
    }


def measured(task: str, plugin: Path | None, limit: int, protocol: str) -> list[dict[str, Any]]:
    """The samples that lmms-eval logs for ``task``, in the order of the questions."""
    named = f"pretrained={BASE}" + ("" if plugin is None else f",plugin={plugin}")
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "lmms_eval", "--model", "rcp", "--model_args", named,
                "--tasks", task, "--include_path", str(TASKS), "--batch_size", "32",
                "--limit", str(limit), "--log_samples", "--output_path", folder]
        subprocess.run(line + ["--force_simple"] * (protocol == "simple"), check=True)
        (log,) = Path(folder).rglob(f"*_samples_{task}.jsonl")
        samples = [json.loads(row) for row in log.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def compared(plugin: Path, limit: int, choices: int) -> list[dict[str, Any]]:
    """A row for each contestant and way to ask it."""
    rows: list[dict[str, Any]] = []
    for method, heard in evaluated(plugin, limit).items():
        used = None if method == "full" else plugin
        for protocol in ("chat", "simple"):
            samples = measured("rcp_scenes", used, limit, protocol)
            pairs = list(zip(heard.answers, samples, strict=True))
            rows.append({
                "contestant": NAMES[method],
                "asked by": f"{protocol} protocol",
                "n": len(samples),
                "evaluate.py %": _percent(heard.accuracy),
                "lmms-eval %": _percent(_mean(samples, "exact_match")),
                "equal answers": sum(
                    said.strip() == sample["filtered_resps"].strip() for said, sample in pairs
                ),
                "equal scores": sum(
                    (said.strip().lower() == sample["target"].strip().lower())
                    == bool(sample["exact_match"]) for said, sample in pairs
                ),
            })
        samples = measured("rcp_scenes_choice", used, choices, "simple")
        rows.append({
            "contestant": NAMES[method],
            "asked by": "choices",
            "n": len(samples),
            "lmms-eval %": _percent(_mean(samples, "acc")),
        })
    return rows


def _mean(samples: Sequence[dict[str, Any]], score: str) -> float:
    return sum(sample[score] for sample in samples) / len(samples)


def _percent(share: float) -> float:
    return round(100 * share, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and write; exit status 1 where an answer or its score differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--plugin", type=Path, default=Path("runs/quickstart/plugin"), help="exported plug-in")
    add("--limit", type=int, default=300, help="how many of the test questions")
    add("--choices", type=int, default=30, help="of how many of them all choices are weighed")
    add("--output", type=Path, default=RESULTS / "harness.json", help="where results go")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    status = exit_status(
        "harness", lambda: rows.extend(compared(options.plugin, options.limit, options.choices))
    )
    if status:
        return status
    given = sys.argv[1:] if arguments is None else arguments
    facts = environment(["python", "-m", "benchmarks.harness", *given])
    facts["versions"] += f", lmms-eval {version('lmms-eval')}"
    names = list(rows[0])
    table: tables.Cells = [names] + [[str(row.get(name, "")) for name in names] for row in rows]
    print(tables.text(table))
    options.output.write_text(json.dumps(facts | {"rows": rows}, indent=2) + "\n")
    told = [f"- {name}: {value}" for name, value in facts.items()]
    lines = ["# lmms-eval against evaluate.py", "", *told, "", tables.markdown(table)]
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return int(any(row.get(name, row["n"]) != row["n"] for row in rows for name in EQUAL))


if __name__ == "__main__":
    sys.exit(main())
