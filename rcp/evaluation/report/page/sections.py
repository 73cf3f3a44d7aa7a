"""Everything the page's template shows of one evaluation, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rcp.evaluation.report import tables
from rcp.evaluation.report.page import charts
from rcp.evaluation.report.page.answers import Pair, pairs
from rcp.evaluation.report.page.gallery import gallery
from rcp.evaluation.report.page.results import Results
from rcp.evaluation.report.page.times import Time, times_of
from rcp.evaluation.report.rows import ResultRow
from rcp.evaluation.report.tables import Cells

LISTED = 100
"""Changed answers that are listed of each contestant; rows and parquet file have all of them."""


@dataclass(frozen=True)
class Changes:
    """Answers of ``contestant`` that are not the full model's: the worst ``LISTED`` of all
    ``changed``, among ``answered``."""

    contestant: str
    listed: list[Pair]
    changed: int
    answered: int


@dataclass(frozen=True)
class Sections:
    """What is there to be shown; None or empty where it was not measured.

    ``charts``: by the name of the place where the template puts them.
    """

    results: Results
    summary: Cells
    by_type: Cells
    figures: Cells
    timing: Cells
    layers: Cells
    cache: Cells
    costs: list[charts.Chart]
    charts: dict[str, charts.Chart]
    gallery: dict[str, Any] | None
    changes: list[Changes]


def sections(results: Results) -> Sections:
    """Of one evaluation; reads and shrinks its images.

    Raises ``UserError`` for answers that contradict themselves.
    """
    rows = results.rows
    times = None if results.times is None else times_of(results.times)
    tokens = {row.method: row.tokens_per_layer for row in rows if row.tokens_per_layer}
    cache = {
        row.method: [held / 1024 for held in row.kv_bytes_per_layer]
        for row in rows
        if row.kv_bytes_per_layer
    }
    drawn = {"by_type": charts.by_type(rows)}
    if tokens:
        drawn["tokens"] = charts.over_layers("visual tokens", tokens, stepped=True)
    if cache:
        drawn["cache"] = charts.over_layers("KV KiB", cache, stepped=True)
    return Sections(
        results=results,
        summary=tables.summary(rows),
        by_type=tables.by_type(rows),
        figures=_figures(rows),
        timing=_timing(times or {}),
        layers=_over_layers(tokens),
        cache=_over_layers(cache),
        costs=charts.against_costs(rows, times),
        charts={name: chart for name, chart in drawn.items() if chart is not None},
        gallery=gallery(results),
        changes=_changes(results),
    )


def across(found: Sequence[Results]) -> Cells:
    """What each method retains of the full model's accuracy in each evaluation, and on average.

    The average is over those it takes part in; empty for a single evaluation.
    """
    if len(found) < 2:
        return []
    methods = list(dict.fromkeys(row.method for one in found for row in one.rows))
    retained = [{row.method: row.retained for row in one.rows} for one in found]
    lines = []
    for method in methods:
        shares = [one.get(method) for one in retained]
        known = [share for share in shares if share is not None]
        cells = ["" if share is None else f"{100 * share:.1f}" for share in shares]
        lines.append([method, *cells, f"{100 * sum(known) / len(known):.1f}"])
    return [["retained %", *(one.name for one in found), "average"], *lines]


def _figures(rows: Sequence[ResultRow]) -> Cells:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    if not names:
        return []
    return [["figure", *(row.method for row in rows)]] + [
        [name, *(_shown(row.figures.get(name)) for row in rows)] for name in names
    ]


def _timing(times: Mapping[str, Time]) -> Cells:
    if not times:
        return []
    return [["contestant", "median ms", "95 % below, ms", "answers"]] + [
        [name, f"{time.median:.1f}", f"{time.most:.1f}", str(time.answers)]
        for name, time in times.items()
    ]


def _over_layers(values: Mapping[str, Sequence[float]]) -> Cells:
    if not values:
        return []
    lines = zip_longest(*values.values())  # layer by layer
    return [["layer", *values]] + [
        [str(layer), *("" if value is None else f"{value:.1f}" for value in line)]
        for layer, line in enumerate(lines)
    ]


def _changes(results: Results) -> list[Changes]:
    found = []
    for row in results.rows[1:] if results.answers is not None else []:
        answered = pairs(results.answers, results.full.method, row.method)
        changed = [pair for pair in answered if pair.changed]
        if changed:
            found.append(Changes(row.method, changed[:LISTED], len(changed), len(answered)))
    return found


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
