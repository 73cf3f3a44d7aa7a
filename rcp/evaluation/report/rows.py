"""One line of the result for each method."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rcp.atomic_write import atomic
from rcp.evaluation.metrics.tally import Tally


@dataclass(frozen=True)
class ResultRow:
    """A method's accuracy and cost, mean over its seeds and over samples.

    ``accuracy``: share of exact matches; ``accuracy_std``: sample standard deviation over seeds,
    0 where there is one. ``by_type``: accuracy of each question type. ``retained``: accuracy over
    the full model's. ``mean_tokens``: visual tokens, mean over decoder layers; ``entering_tokens``:
    those that enter the first layer. ``flops``: one prefill of the decoder, its head and the
    plug-in. ``kv_bytes``: cache allocated at the end of prefill. ``prefill_speedup``: the full
    model's time over the method's. ``seeds``: how many; ``n``: questions that were answered.
    ``unreadable``: ids of those that could not be read, and so are in no score.
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


def pooled(
    method: str,
    tallies: Sequence[Tally],
    full: Tally,
    plugin_flops: float,
    speedup: float,
    unreadable: Sequence[str] = (),
) -> ResultRow:
    """The row of ``method``: one tally for each of its seeds."""
    accuracies = [tally.accuracy for tally in tallies]
    accuracy = statistics.fmean(accuracies)
    by_type = [tally.by_type for tally in tallies]
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
    )


def write_rows(rows: Sequence[ResultRow], path: Path) -> None:
    """Write ``rows`` as a JSON list; the file appears whole or not at all."""
    with atomic(path) as unfinished:
        unfinished.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
