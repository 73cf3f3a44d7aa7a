"""The measured speeds as a page and a figure beside their JSON."""

from pathlib import Path
from typing import Any

from benchmarks.figures import bars
from rcp.atomic_write import atomic
from rcp.evaluation.report import tables

COLUMNS = {
    "prefill ms": 1, "speed-up": 2, "predicted": 2, "efficiency": 3, "of a prompt as short": 3,
    "decode ms": 1, "KV MiB predicted": 2, "KV MiB": 2,
    "short answer ms": 0, "long answer ms": 0,
}
"""Decimals of each."""


def write(found: dict[str, Any], output: Path) -> None:
    """``output`` with another ending: the tables as .md, the speed-ups of the first one as .png."""
    rows = found["rows"]
    made = found["environment"]
    lines = ["# Prefill and decoding, full and pruned", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    settings = list(dict.fromkeys((row["batch"], row["visual tokens"]) for row in rows))
    for batch, visual in settings:
        here = [row for row in rows if (row["batch"], row["visual tokens"]) == (batch, visual)]
        lines += ["", f"## Batch {batch}, {visual} visual tokens", "", tables.markdown(cells(here))]
    first = [row for row in rows if (row["batch"], row["visual tokens"]) == settings[0]]
    with atomic(output.with_suffix(".md")) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    bars(
        [row["entrant"] for row in first],
        [row["speed-up"] for row in first],
        [0.0] * len(first),
        f"speed-up of a prefill, batch {settings[0][0]}, {settings[0][1]} visual tokens",
        output.with_suffix(".png"),
    )


def cells(rows: list[dict[str, Any]]) -> tables.Cells:
    """One table: an entrant a line."""
    return [["entrant", *COLUMNS]] + [
        [row["entrant"], *(f"{row[name]:.{digits}f}" for name, digits in COLUMNS.items())]
        for row in rows
    ]
