"""The answers of a contestant beside the full model's, sample by sample."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SHORT = ["index", "id", "question", "type", "references", "answer", "score"]
"""Columns that fit into memory for every sample; those that say what survives may not."""


@dataclass(frozen=True)
class Pair:
    """One sample, answered by the full model and by another. Scores are from 0 to 1."""

    index: int
    id: str
    question: str
    type: str
    references: list[str]
    full: str
    full_score: float
    other: str
    other_score: float

    @property
    def changed(self) -> bool:
        """Whether the two differ in what they say or in what it is worth."""
        return self.full.strip() != self.other.strip() or self.full_score != self.other_score

    @property
    def outcome(self) -> str:
        """``lost``, ``gained``, ``reworded`` at the same score, or ``same``."""
        if self.full_score != self.other_score:
            return "lost" if self.other_score < self.full_score else "gained"
        return "reworded" if self.changed else "same"


def pairs(answers: pa.Table, full: str, other: str) -> list[Pair]:
    """All samples that both have answered, what lost most first, then in order of the data.

    Of a contestant with several seeds the first is taken.
    """
    theirs = {line["index"]: line for line in first_seed(answers, other, SHORT)}
    found = [
        Pair(
            index=line["index"],
            id=line["id"] or "",
            question=line["question"] or "",
            type=line["type"] or "",
            references=[reference or "" for reference in line["references"] or []],
            full=line["answer"] or "",
            full_score=line["score"] or 0.0,
            other=theirs[line["index"]]["answer"] or "",
            other_score=theirs[line["index"]]["score"] or 0.0,
        )
        for line in first_seed(answers, full, SHORT)
        if line["index"] in theirs
    ]
    return sorted(found, key=_what_lost_most)


def first_seed(
    answers: pa.Table, contestant: str, columns: list[str], among: list[int] | None = None
) -> list[dict[str, Any]]:
    """The ``columns`` of ``contestant``'s rows of its first seed; only indices ``among``, if given.
    """
    found = answers.filter(pc.field("contestant") == contestant)
    found = found.filter(pc.field("seed") == pc.min(found["seed"]))
    if among is not None:
        found = found.filter(pc.field("index").isin(among))
    return found.select(columns).to_pylist()


def _what_lost_most(pair: Pair) -> tuple[float, int]:
    """Lost, reworded, gained, and whatever has not changed at the end."""
    gain = pair.other_score - pair.full_score
    return (gain if pair.changed else float("inf"), pair.index)
