"""Rows as text for a terminal and as Markdown for a README."""

from collections.abc import Callable, Sequence

from rcp.evaluation.report.rows import ResultRow

Cells = list[list[str]]
"""The header first; column 0 is text, the others are numbers."""


def summary(rows: Sequence[ResultRow]) -> Cells:
    """Accuracy and cost of each method; the first row is what all is compared with.

    The interval is of the difference, in points of the mean score.
    """
    full = rows[0]
    header = [
        "method",
        f"{full.metric} %" if full.percent else full.metric,
        "retained %",
        "95 % interval",
        "McNemar p",
        "mean tokens",
        "entering",
        "GFLOPs",
        "FLOPs ratio",
        "prefill speed-up",
        "KV KiB",
        "seeds",
    ]
    return [header] + [
        [
            row.method,
            _accuracy(row),
            f"{100 * row.retained:.1f}",
            _interval(row),
            "" if row.mcnemar_p is None else f"{row.mcnemar_p:.2g}",
            f"{row.mean_tokens:.1f}",
            f"{row.entering_tokens:.1f}",
            f"{row.flops / 1e9:.3f}",
            f"{full.flops / row.flops:.2f}x",
            f"{row.prefill_speedup:.2f}x",
            f"{row.kv_bytes / 1024:.1f}",
            str(row.seeds),
        ]
        for row in rows
    ]


def by_type(rows: Sequence[ResultRow]) -> Cells:
    """The mean score of each method on each question type, in percent."""
    types = list(rows[0].by_type)
    lines = [
        [row.method, *(f"{100 * row.by_type[kind]:.1f}" if kind in row.by_type else ""
                       for kind in types)]
        for row in rows
    ]
    return [["accuracy %", *types], *lines]


def text(cells: Cells) -> str:
    """Aligned columns under a rule."""
    widths = _widths(cells)
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(cells: Cells) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], rule, *cells[1:]])


def _accuracy(row: ResultRow) -> str:
    unit = 100 if row.percent else 1
    spread = f" ± {unit * row.accuracy_std:.1f}" if row.seeds > 1 else ""
    return f"{unit * row.accuracy:.1f}{spread}"


def _interval(row: ResultRow) -> str:
    if row.interval is None:
        return ""
    low, high = (100 * bound for bound in row.interval)
    return f"{low:+.1f} to {high:+.1f}"


def _widths(cells: Cells) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells)]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    ways: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(line) - 1)]
    return [way(cell, width) for way, cell, width in zip(ways, line, widths)]
