"""The figure of the load: `python -m benchmarks.serving.figure`, outside the engine's environment,
which lacks what draws it, after `python -m benchmarks.serving --parts load` in there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS

PANELS = {
    "requests/s": lambda row: row["requests_per_second"],
    "first token, ms (median)": lambda row: row["p50"],
    "accuracy %": lambda row: 100 * row["accuracy"],
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each of :data:`PANELS`, a bar for each budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + 0.35 * len(rows)), layout="constrained")
    names = [str(row["budget"]) for row in rows][::-1]
    for axes, (title, value) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items()):
        axes.barh(names, [value(row) for row in rows][::-1], color="#4a7fb0")
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].set_ylabel("visual budget")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    results = json.loads((RESULTS / "serving.json").read_text())
    draw(results["load"]["rows"], RESULTS / "serving.png")
