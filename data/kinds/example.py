"""What every kind of question makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

IMAGE = "<image>\n"


@dataclass(frozen=True)
class Example:
    """``images`` (H, W, 3) uint8; ``turns``: questions and answers, in order.

    The first question has the place of each image, written ``<image>``.
    """

    type: str
    images: tuple[np.ndarray, ...]
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind:
    """A ``name``; ``examples(split, seed)`` without end; how an answer is scored, from 0 to 1."""

    name: str
    examples: Callable[[str, int], Iterator[Example]]
    score: Callable[[str, str], float]


def same(said: str, answer: str) -> float:
    """1.0 for the same words, whatever their case and the space around them."""
    return float(said.strip().lower() == answer.strip().lower())


def guessed(kind: Kind, examples: Sequence[Example]) -> dict[str, float]:
    """What the best constant answer scores in each type; of a dialogue, in its last turn.

    Candidates are the 50 most frequent answers of a type, of equals those that come first.
    """
    answers: dict[str, list[str]] = {}
    for example in examples:
        answers.setdefault(example.type, []).append(example.turns[-1][1])
    return {
        type: max(
            sum(kind.score(guess, answer) for answer in given) / len(given)
            for guess in sorted(dict.fromkeys(given), key=given.count, reverse=True)[:50]
        )
        for type, given in sorted(answers.items())
    }
