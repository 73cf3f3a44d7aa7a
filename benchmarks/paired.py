"""Two contestants on the same questions: which of them the ones they differ in speak for."""

from collections.abc import Sequence
from math import comb


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p that both answer equally well (McNemar, 1947).

    ``first`` and ``second`` say of each question, in the same order, whether it was answered right.
    Under the hypothesis each question that only one of them answers is a fair coin. 1 where there
    is none.
    """
    won = sum(one and not other for one, other in zip(first, second, strict=True))
    lost = sum(other and not one for one, other in zip(first, second, strict=True))
    tail = sum(comb(won + lost, count) for count in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (won + lost))
