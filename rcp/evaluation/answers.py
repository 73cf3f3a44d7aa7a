"""What a contestant answered to a sample, and what that took: all that is measured one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcp.conversations.sample import Unreadable
from rcp.evaluation.metrics.occupancy import Occupancy


@dataclass(frozen=True)
class Places:
    """Where a sample's N visual tokens lie, as in :class:`rcp.choosing.view.View`: ``image_index``
    (N,) int64, ``grid`` (N, 2) float32, NaN where a token has no place."""

    image_index: NDArray[np.int64]
    grid: NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """``said`` is the text that was generated for sample ``index`` of the data set.

    ``tokens``: what its prefill held. ``kv_bytes`` and ``milliseconds``: its equal share of what
    the batch it was answered in took at the end of the prefill, padding included, and from the
    start of the prefill to the end of the last answer. ``places`` where they were asked for.
    """

    index: int
    said: str
    tokens: Occupancy
    kv_bytes: float
    milliseconds: float
    places: Places | None = None


@dataclass(frozen=True)
class AnsweredBatch:
    """``answers`` of each contestant to the samples that could be read; ``faults`` of the rest."""

    answers: list[list[Answer]]
    faults: list[Unreadable]
