"""Figures of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """Points of one ``method``: two abscissae, the ordinate and its error."""

    method: str
    dashed: bool
    tokens: list[float]
    flops: list[float]
    value: list[float]
    error: list[float]


def bars(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    label: str,
    path: Path,
) -> None:
    """Horizontal bars from top to bottom, each with its error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    positions = range(len(names), 0, -1)
    axes.barh(positions, values, xerr=errors, color="#4a7fb0", capsize=2)
    axes.set_yticks(list(positions), names)
    lowest = min(value - error for value, error in zip(values, errors))
    axes.set_xlim(left=max(0.0, 0.9 * lowest))
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def sweep(lines: Sequence[Line], dashed: str, label: str, path: Path) -> None:
    """The same points against mean tokens and against FLOPs, side by side.

    A method has one colour; ``dashed`` says what its dashed line is.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(12, 5), layout="constrained")
    methods = list(dict.fromkeys(line.method for line in lines))
    colours = {method: f"C{number % 10}" for number, method in enumerate(methods)}
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("tokens", "flops")):
        for line in lines:
            axes.errorbar(
                getattr(line, name),
                line.value,
                yerr=line.error,
                color=colours[line.method],
                linestyle="--" if line.dashed else "-",
                marker="o",
                markersize=3,
                capsize=2,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    first, second = figure.axes
    first.set_xlabel("visual tokens, mean over layers")
    second.set_xlabel("GFLOPs of a prefill")
    first.set_ylabel(label)
    marks = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    marks.append(Line2D([], [], color="0.5", linestyle="--", label=dashed))
    figure.legend(handles=marks, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
