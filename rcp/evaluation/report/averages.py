"""One number a method over several sets: the mean of what it keeps of the full model on each."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rcp.errors import UserError
from rcp.evaluation.report.rows import ResultRow
from rcp.evaluation.report.tables import Cells
from rcp.quoting import quoted


@dataclass(frozen=True)
class Average:
    """``retained``: by set, the method's accuracy over the full model's on it.

    ``mean_tokens`` and ``entering_tokens``: by set, both conventions of the budget.
    """

    method: str
    retained: dict[str, float]
    mean_tokens: dict[str, float]
    entering_tokens: dict[str, float]

    @property
    def average(self) -> float:
        """The mean of the ratios, each set counting as much as any other."""
        return statistics.fmean(self.retained.values())


def averages(results: Mapping[str, Sequence[ResultRow]]) -> list[Average]:
    """Of each method over the sets it is in, in the order they first occur.

    ``results``: the rows of each set, the full model's first. Two methods can be compared where
    they are in the same sets. Raises ``UserError`` for a set without rows, and for one on which
    the full model has no score above zero to take a ratio to.
    """
    found: dict[str, Average] = {}
    for name, rows in results.items():
        _refuse_no_ratio(name, rows)
        for row in rows:
            average = found.setdefault(row.method, Average(row.method, {}, {}, {}))
            average.retained[name] = row.accuracy / rows[0].accuracy
            average.mean_tokens[name] = row.mean_tokens
            average.entering_tokens[name] = row.entering_tokens
    return list(found.values())


def average_table(found: Sequence[Average]) -> Cells:
    """Average %, both budgets, what each set has kept, and of which sets that is the mean."""
    sets = list(dict.fromkeys(name for average in found for name in average.retained))
    header = ["method", "average %", "mean tokens", "entering", *(f"{name} %" for name in sets)]
    lines = [
        [
            average.method,
            f"{100 * average.average:.1f}",
            _range(average.mean_tokens),
            _range(average.entering_tokens),
            *(_percent(average.retained.get(name)) for name in sets),
            ", ".join(average.retained),
        ]
        for average in found
    ]
    return [[*header, "average of"], *lines]


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.1f}"


def _range(tokens: Mapping[str, float]) -> str:
    """One number where all sets agree; images of other sizes have other numbers of tokens."""
    low, high = (f"{bound(tokens.values()):.1f}" for bound in (min, max))
    return low if low == high else f"{low} to {high}"


def _refuse_no_ratio(name: str, rows: Sequence[ResultRow]) -> None:
    if not rows:
        raise UserError(f"The results of {quoted(name)} have no row. Evaluate on that set again.")
    full = rows[0].accuracy
    if not (math.isfinite(full) and full > 0):
        raise UserError(
            f"The first row of {quoted(name)}, '{rows[0].method}', has {rows[0].metric} {full}: a "
            "share of that says nothing. Leave that set out of the average."
        )
