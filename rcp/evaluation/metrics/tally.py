"""What is counted for one contestant while it answers."""

from collections.abc import Sequence

import torch

from rcp.base_model.cost import DecoderSizes, paper_prefill_flops, prefill_flops
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.objectives.exact_match import ExactMatch


class Tally:
    """Sums over the samples of one contestant, read as means per sample."""

    def __init__(self, facts: DecoderSizes, question_types: Sequence[str]) -> None:
        self.facts = facts
        self.metric = ExactMatch(question_types)
        self._samples = 0
        self._visual = torch.zeros(facts.layers)
        self._flops = self._paper_flops = self._kv_bytes = 0

    def add(self, occupancy: Occupancy, kv_bytes: int) -> None:
        """Count one batch's prefill, for which ``kv_bytes`` of cache were allocated."""
        self._samples += len(occupancy.text)
        self._visual += occupancy.visual.sum(1)
        self._kv_bytes += kv_bytes
        sizes = self.facts.hidden, self.facts.intermediate
        for rows in occupancy.rows:
            self._flops += prefill_flops(self.facts, rows)
            self._paper_flops += paper_prefill_flops(*sizes, rows)

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def accuracy(self) -> float:
        """Share of exact matches."""
        return self.metric.compute()["accuracy"].item()

    @property
    def by_type(self) -> dict[str, float]:
        """Share of exact matches of each question type of which any could be answered."""
        found = self.metric.compute()
        answered = self.metric.total.tolist()
        return {
            kind: found[f"accuracy_{kind}"].item()
            for kind, number in zip(self.metric.question_types, answered)
            if number
        }

    @property
    def visual(self) -> list[float]:
        """Visual tokens in each layer."""
        return (self._visual / self._samples).tolist()

    @property
    def mean_tokens(self) -> float:
        """Visual tokens, mean over layers."""
        return sum(self.visual) / self.facts.layers

    @property
    def flops(self) -> float:
        """Predicted FLOPs of the decoder's prefill, plug-in excluded."""
        return self._flops / self._samples

    @property
    def paper_flops(self) -> float:
        """The same by the formula that papers print."""
        return self._paper_flops / self._samples

    @property
    def kv_bytes(self) -> float:
        """Cache bytes allocated when the prefill ended, padding of the batch included."""
        return self._kv_bytes / self._samples
