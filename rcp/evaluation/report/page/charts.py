"""What the page's charts show, as plain values that its script draws.

Each is a dict with a ``kind``: ``scatter``, a point with its interval for each contestant;
``dots``, a row of points for each of some ``labels``; ``lines`` over the decoder's layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rcp.evaluation.report.page.times import Time
from rcp.evaluation.report.rows import ResultRow

Chart = dict[str, Any]


def accuracy_against(
    cost: str, rows: Sequence[ResultRow], costs: Sequence[float | None]
) -> Chart | None:
    """Accuracy over each row's ``costs``; None where not even two are known."""
    points = [
        {
            "name": row.method,
            "x": value,
            "y": _shown(row),
            "interval": _interval(row, rows[0]),
        }
        for row, value in zip(rows, costs)
        if value is not None
    ]
    if len(points) < 2:
        return None
    accuracy = f"{rows[0].metric} %" if rows[0].percent else rows[0].metric
    return {"kind": "scatter", "x": cost, "y": accuracy, "points": points}


def against_costs(rows: Sequence[ResultRow], times: Mapping[str, Time] | None) -> list[Chart]:
    """Accuracy against mean tokens, FLOPs and time.

    Time is that of the answers where they were timed, else that of a prefill by its speed-up.
    """
    if times is not None:
        known = [times.get(row.method) for row in rows]
        timed = ("ms an answer, median", [time.median if time else None for time in known])
    else:
        ratios = [1 / row.prefill_speedup if row.prefill_speedup else None for row in rows]
        timed = ("prefill time over the full model's", ratios)
    found = [
        accuracy_against("visual tokens, mean over layers", rows, [r.mean_tokens for r in rows]),
        accuracy_against("GFLOPs of a prefill", rows, [row.flops / 1e9 for row in rows]),
        accuracy_against(timed[0], rows, timed[1]),
    ]
    return [chart for chart in found if chart is not None]


def by_type(rows: Sequence[ResultRow]) -> Chart | None:
    """Mean score in percent on each question type; None where there is but one."""
    labels = list(rows[0].by_type)
    if len(labels) < 2:
        return None
    series = [
        {
            "name": row.method,
            "values": [_percent(row.by_type[kind]) if kind in row.by_type else None
                       for kind in labels],
        }
        for row in rows
    ]
    return {"kind": "dots", "x": "mean score %", "labels": labels, "series": series}


def over_layers(
    quantity: str,
    values: Mapping[str, Sequence[float]],
    *,
    stepped: bool = False,
    logarithmic: bool = False,
) -> Chart:
    """One line each of ``values``; on a logarithmic scale what is not above 0 is left out."""
    series = [
        {
            "name": name,
            "values": [None if logarithmic and value <= 0 else value for value in line],
        }
        for name, line in values.items()
    ]
    depth = max(map(len, values.values()), default=0)
    return {
        "kind": "lines",
        "x": "decoder layer",
        "y": quantity,
        "stepped": stepped,
        "logarithmic": logarithmic,
        "labels": list(range(depth)),
        "series": series,
    }


def _shown(row: ResultRow) -> float:
    return _percent(row.accuracy) if row.percent else row.accuracy


def _interval(row: ResultRow, full: ResultRow) -> list[float] | None:
    """Where accuracy lies if the full model's is what it is; only where it is the mean score."""
    if row.interval is None or row.metric != "accuracy":
        return None
    return [_percent(full.accuracy + end) for end in row.interval]


def _percent(share: float) -> float:
    return round(100 * share, 2)
