"""The figure of the method comparison: accuracy by method, a panel for each budget."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

REFERENCES = {"full": "black", "blank_image": "0.6"}
CONTROLS = ("random", "uniform", "downsampled_input", "oracle")


def draw(panels: dict[str, Sequence[Any]], path: Path) -> None:
    """Draw ``panels``, title → entries of :class:`benchmarks.methods.Entry`, into ``path``.

    The full model and the blank image are lines across; controls are grey.
    """
    from matplotlib.figure import Figure

    tallest = max(len(entries) for entries in panels.values())
    size = 6 * len(panels), 0.26 * tallest + 1.2
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, entries) in zip(axes[0], panels.items()):
        rows = [entry.row for entry in entries if entry.row is not None]
        for row in rows:
            if row.method in REFERENCES:
                colour = REFERENCES[row.method]
                axis.axvline(100 * row.accuracy, color=colour, label=row.method, linestyle="--")
        shown = [row for row in rows if row.method not in REFERENCES][::-1]
        axis.barh(
            [row.method for row in shown],
            [100 * row.accuracy for row in shown],
            xerr=[100 * row.accuracy_std for row in shown],
            color=["0.7" if row.method in CONTROLS else "tab:blue" for row in shown],
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("accuracy %")
        axis.tick_params(axis="y", labelsize=8)
        axis.legend(loc="lower right", fontsize=8)
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, dpi=120, format="png")
    unfinished.rename(path)
