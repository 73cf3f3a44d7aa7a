"""One line of the result for each method."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rcp.atomic_write import atomic
from rcp.errors import UserError
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.paired import over_seeds, paired
from rcp.quoting import plain, quoted
from rcp.typed_values import from_plain


@dataclass(frozen=True)
class ResultRow:
    """A method's accuracy and cost, mean over its seeds and over samples.

    ``accuracy``: the figure called ``metric``, of exact match the share that is right;
    ``accuracy_std``: sample standard deviation over seeds, 0 where there is one. ``by_type``: mean
    score of each question type. ``retained``: accuracy over the full model's. ``mean_tokens``:
    visual tokens, mean over decoder layers; ``entering_tokens``: those that enter the first layer.
    ``flops``: one prefill of the decoder, its head and the plug-in. ``kv_bytes``: cache allocated
    at the end of prefill. ``prefill_speedup``: the full model's time over the method's. ``seeds``:
    how many; ``n``: questions that were answered. ``unreadable``: ids of those that could not be
    read, and so are in no score.

    ``interval`` and ``mcnemar_p``: the mean score against the full model's, paired by question
    (:mod:`rcp.evaluation.paired`); None of the full model, and of too few questions. ``figures``:
    all that the metric gives, in its own unit; None where it has no value. ``percent``: whether
    accuracy is a share. ``tokens_per_layer`` and ``kv_bytes_per_layer``: what ``mean_tokens`` is
    the mean of, and ``kv_bytes`` the sum.
    """

    method: str
    accuracy: float
    accuracy_std: float
    by_type: dict[str, float]
    retained: float
    mean_tokens: float
    entering_tokens: float
    flops: float
    kv_bytes: float
    prefill_speedup: float
    seeds: int
    n: int
    unreadable: list[str] = field(default_factory=list)
    interval: list[float] | None = None
    mcnemar_p: float | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    metric: str = "accuracy"
    percent: bool = True
    tokens_per_layer: list[float] = field(default_factory=list)
    kv_bytes_per_layer: list[float] = field(default_factory=list)


def pooled(
    method: str,
    tallies: Sequence[Tally],
    full: Tally,
    plugin_flops: float,
    speedup: float,
    unreadable: Sequence[str] = (),
) -> ResultRow:
    """The row of ``method``: one tally for each of its seeds, beside the one of the full model."""
    accuracies = [tally.accuracy for tally in tallies]
    accuracy = statistics.fmean(accuracies)
    by_type = [tally.by_type for tally in tallies]
    against = None
    if full is not tallies[0]:
        against = paired(over_seeds([tally.scores for tally in tallies]), over_seeds([full.scores]))
    return ResultRow(
        method=method,
        accuracy=round(accuracy, 6),
        accuracy_std=round(statistics.stdev(accuracies), 6) if len(tallies) > 1 else 0.0,
        by_type={
            kind: round(statistics.fmean(types[kind] for types in by_type), 6)
            for kind in by_type[0]
        },
        retained=round(accuracy / full.accuracy, 6) if full.accuracy else 0.0,
        mean_tokens=round(statistics.fmean(tally.mean_tokens for tally in tallies), 4),
        entering_tokens=round(statistics.fmean(tally.visual[0] for tally in tallies), 4),
        flops=round(statistics.fmean(tally.flops for tally in tallies) + plugin_flops),
        kv_bytes=round(statistics.fmean(tally.kv_bytes for tally in tallies)),
        prefill_speedup=round(speedup, 3),
        seeds=len(tallies),
        n=tallies[0].samples,
        unreadable=list(unreadable),
        interval=_rounded(against.interval) if against else None,
        mcnemar_p=float(f"{against.p:.4g}") if against else None,
        figures=_means([tally.figures for tally in tallies]),
        metric=tallies[0].metric,
        percent=tallies[0].percent,
        tokens_per_layer=_per_layer([tally.visual for tally in tallies], 4),
        kv_bytes_per_layer=_per_layer([tally.kv_bytes_per_layer for tally in tallies], 1),
    )


def _per_layer(values: Sequence[Sequence[float]], digits: int) -> list[float]:
    """Over seeds."""
    return [round(statistics.fmean(layer), digits) for layer in zip(*values)]


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(bound, 6) for bound in interval]


def _means(figures: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Over seeds; JSON has no NaN."""
    found = {name: statistics.fmean(each[name] for each in figures) for name in figures[0]}
    return {name: round(mean, 6) if math.isfinite(mean) else None for name, mean in found.items()}


def beside(output: Path, what: str) -> Path:
    """The file or folder called ``what`` that belongs to the rows in ``output``."""
    return output.with_name(f"{output.stem}.{what}")


def write_rows(rows: Sequence[ResultRow], path: Path) -> None:
    """Write ``rows`` as a JSON list; the file appears whole or not at all."""
    with atomic(path) as unfinished:
        found = json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False)
        unfinished.write_text(found + "\n")


def read_rows(path: Path) -> list[ResultRow]:
    """What :func:`write_rows` wrote, today or when rows had fewer fields.

    Raises ``UserError`` for what cannot be read and for whatever else it is.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(values, ensure_ascii=False).encode()  # JSON can write half a surrogate pair
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{quoted(path)} cannot be read as rows ({plain(error)}). Name the file that "
            "evaluate.py wrote with --output."
        ) from error
    if not isinstance(values, list) or not values:
        raise UserError(
            f"{quoted(path)} holds {quoted(values)}, but rows are a list that is not empty. Name "
            "the file that evaluate.py wrote with --output."
        )
    try:
        return [_checked(from_plain(ResultRow, value)) for value in values]
    except UserError as error:
        raise UserError(f"{quoted(path)}: {error}") from error


def _checked(row: ResultRow) -> ResultRow:
    if row.flops <= 0 or len(row.interval or (0, 0)) != 2:
        raise UserError(
            f"{quoted(row.method)} has {row.flops} flops and the interval {row.interval}, but "
            "flops must be above 0, and an interval has two ends. Evaluate again."
        )
    return row
