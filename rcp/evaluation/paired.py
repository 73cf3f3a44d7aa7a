"""Two contestants compared question by question: both were asked the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999
CONFIDENCE = 0.95
RIGHT = 0.5
"""A score from here on counts as right where right and wrong are all that is compared."""

AT_ONCE = 2**22
"""Numbers that are drawn at a time."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """``interval``: where the difference of mean scores lies (95 %), in the unit of the scores;
    None of a single question. ``p``: of McNemar's exact test, two-sided."""

    interval: tuple[float, float] | None
    p: float


def over_seeds(scores: Sequence[Sequence[float]]) -> Scores:
    """The mean over seeds of each question's score: (questions,)."""
    return np.asarray(scores, dtype=np.float64).mean(0)


def paired(scores: Scores, others: Scores) -> Paired:
    """``scores`` against ``others``, both (questions,) and from 0 to 1.

    Questions are drawn anew, seeds are not: the interval says what other questions might show.
    """
    return Paired(bootstrap_interval(scores - others), mcnemar(scores >= RIGHT, others >= RIGHT))


def bootstrap_interval(differences: Scores) -> tuple[float, float] | None:
    """The percentile bootstrap of the mean of ``differences``, the same in every run.

    None of fewer than two. (Efron & Tibshirani 1993, chapter 13)
    """
    from scipy import stats

    if len(differences) < 2:
        return None
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // len(differences)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def mcnemar(right: NDArray[np.bool_], others: NDArray[np.bool_]) -> float:
    """The exact p of as unequal a split of the questions that only one of the two gets right.

    Two-sided; 1 where there is no such question. (McNemar 1947)
    """
    from scipy import stats

    gained, lost = int((right & ~others).sum()), int((others & ~right).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
