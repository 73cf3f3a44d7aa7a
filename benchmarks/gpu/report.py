"""The result of a GPU run: a table for the terminal, and the files in benchmarks/results/."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.measuring import read_figures
from benchmarks.gpu.parts import Places
from benchmarks.gpu.running import LOG, Outcome
from rcp.atomic_write import atomic
from rcp.evaluation.report import tables

HEADER = ["part", "status", "seconds", "main figures"]


def summary(outcomes: Sequence[Outcome], places: Places) -> list[list[str]]:
    """Cells: a row a part."""
    return [HEADER] + [
        [one.part.name, one.status, f"{one.seconds:.0f}", _main(places.folder(one.part.name))]
        for one in outcomes
    ]


def text(cells: Sequence[Sequence[str]]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def write(
    outcomes: Sequence[Outcome], places: Places, made: dict[str, str], target: Path
) -> None:
    """``target`` with every figure as JSON, and tables of them in .md beside it."""
    found = {one.part.name: _part(one, places) for one in outcomes}
    with atomic(target) as unfinished:
        unfinished.write_text(json.dumps({"made": made, "parts": found}, indent=2) + "\n")
    lines = ["# One GPU", "", *(f"- {name}: {value}" for name, value in made.items()), ""]
    lines += [tables.markdown(summary(outcomes, places)), ""]
    for name, part in found.items():
        lines += [f"## {name}", "", f"{part['about']}: `{part['command']}`", ""]
        lines += [tables.markdown(_cells(part["rows"])), ""] if part["rows"] else []
    target.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


def _part(one: Outcome, places: Places) -> dict[str, Any]:
    facts = {"about": one.part.about, "command": one.part.shown(places.tiny),
             "status": one.status, "seconds": round(one.seconds, 1)}
    return facts | read_figures(places.folder(one.part.name))


def _main(folder: Path) -> str:
    """The main figures, or the last line of the log where a part has written none."""
    main = read_figures(folder)["main"]
    if main:
        return ", ".join(f"{name} {_shown(value)}" for name, value in main.items())
    log = folder / LOG
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1].strip("= ")[:100] if lines else ""


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names] + [[_shown(row.get(name)) for name in names] for row in rows]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
