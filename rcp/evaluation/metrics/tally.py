"""What is counted of one contestant's answers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rcp.base_model.cost import DecoderSizes, kv_bytes, paper_prefill_flops, prefill_flops
from rcp.conversations import Sample
from rcp.evaluation.answers import Answer
from rcp.evaluation.scoring import Scoring, mean_by_type

MEAN_SCORE = "mean score"


class Tally:
    """The ``answers`` of one contestant to ``asked``, in parallel, read as means per sample."""

    def __init__(
        self,
        facts: DecoderSizes,
        scoring: Scoring,
        asked: Sequence[Sample],
        answers: Sequence[Answer],
    ) -> None:
        self.facts = facts
        self.scoring = scoring
        self.asked = asked
        self.answers = answers

    @property
    def samples(self) -> int:
        return len(self.answers)

    @cached_property
    def scores(self) -> list[float]:
        """What each answer is worth by itself, from 0 to 1."""
        return [
            self.scoring.score(answer.said, sample)
            for answer, sample in zip(self.answers, self.asked)
        ]

    @cached_property
    def figures(self) -> dict[str, float]:
        """The official figures of all answers together, by name."""
        return self.scoring.figures([answer.said for answer in self.answers], self.asked)

    @property
    def has_primary(self) -> bool:
        """Whether what was asked gives the primary figure: a part of a set may have none."""
        return math.isfinite(self.figures[self.scoring.primary])

    @property
    def accuracy(self) -> float:
        """The primary one of the figures; where there is none, the mean score."""
        if self.has_primary:
            return self.figures[self.scoring.primary]
        return statistics.fmean(self.scores)

    @property
    def metric(self) -> str:
        """What :attr:`accuracy` is called."""
        return self.scoring.primary if self.has_primary else MEAN_SCORE

    @property
    def percent(self) -> bool:
        """Whether :attr:`accuracy` is a share."""
        return self.scoring.percent or not self.has_primary

    @property
    def by_type(self) -> dict[str, float]:
        """The mean score of each question type of which any could be answered."""
        return mean_by_type(self.scores, self.asked)

    @cached_property
    def visual(self) -> list[float]:
        """Visual tokens in each layer."""
        rows = [answer.tokens.visual_rows(self.facts.layers) for answer in self.answers]
        return [statistics.fmean(layer) for layer in zip(*rows)]

    @property
    def mean_tokens(self) -> float:
        """Visual tokens, mean over layers."""
        return sum(self.visual) / self.facts.layers

    @cached_property
    def flops(self) -> float:
        """Predicted FLOPs of the decoder's prefill, plug-in excluded."""
        return sum(prefill_flops(self.facts, rows) for rows in self._rows) / self.samples

    @property
    def paper_flops(self) -> float:
        """The same by the formula that papers print."""
        sizes = self.facts.hidden, self.facts.intermediate
        return sum(paper_prefill_flops(*sizes, rows) for rows in self._rows) / self.samples

    @property
    def kv_bytes(self) -> float:
        """Cache bytes allocated when the prefill ended, padding of the batch included."""
        return statistics.fmean(answer.kv_bytes for answer in self.answers)

    @property
    def kv_bytes_per_layer(self) -> list[float]:
        """The same of each layer: shared out as the tokens without padding need it."""
        needed = [kv_bytes(self.facts, rows, value_bytes=1) for rows in self._rows]
        layers = [sum(layer) for layer in zip(*needed)]
        return [self.kv_bytes * layer / sum(layers) for layer in layers]

    @property
    def _rows(self) -> list[list[int]]:
        return [answer.tokens.rows(self.facts.layers) for answer in self.answers]


@dataclass(frozen=True)
class Answered:
    """One contestant: number ``seed`` of its ``method``."""

    method: str
    seed: int
    tally: Tally
