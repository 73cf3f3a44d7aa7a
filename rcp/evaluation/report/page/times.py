"""How long the answers of each contestant took, as they were timed one by one."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Time:
    """Milliseconds an answer: the median, and what nineteen of twenty stay below."""

    median: float
    most: float
    answers: int


def times_of(times: pa.Table) -> dict[str, Time]:
    """By contestant, all of its seeds together."""
    found = {}
    for contestant in pc.unique(times["contestant"]).to_pylist():
        taken = times.filter(pc.field("contestant") == contestant)["milliseconds"].drop_null()
        if len(taken):
            median, most = pc.quantile(taken, q=[0.5, 0.95]).to_pylist()
            found[contestant] = Time(median, most, len(taken))
    return found
