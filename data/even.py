"""Answers kept even: what guessing by type alone earns is no more than an answer's share."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TypeVar

import numpy as np

LEAD = 2  # how often an answer may be used more than the mean of its type

Asked = TypeVar("Asked")


class Even:
    """Chooses among the answers that are possible the one that its type has used least."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._used: dict[str, Counter[str]] = defaultdict(Counter)

    def choose(self, type: str, answers: dict[str, list[Asked]]) -> tuple[str, Asked] | None:
        """An answer, and one of what is listed under it, which is taken out of the list.

        None where nothing is left, or where all answers that are have had their share.
        """
        left = [answer for answer, asked in answers.items() if asked]
        if not left:
            return None
        used = self._used[type]
        answer = min(left, key=lambda word: (used[word], self.rng.random()))
        if used[answer] > LEAD + sum(used.values()) / max(1, len(used)):
            return None  # a scene may offer one answer only, and that one has had its share
        asked = answers[answer].pop(int(self.rng.integers(len(answers[answer]))))
        used[answer] += 1
        return answer, asked
