"""Answers by greedy ``generate``, and what the cache held when the prefill ended."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor

from rcp.attaching.cache_names import cache_name
from rcp.attaching.encoder_watch import watching
from rcp.attaching.forwards.entry import entry_facts
from rcp.backbones import Backbone
from rcp.base_model.answering import greedy_answers
from rcp.base_model.sizes import decoder_sizes
from rcp.conversations import Batch, ConversationDataset, LoadedSample
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.preparation import Preparation


class Questions:
    """The first ``limit`` samples of a data set, answered batch by batch."""

    def __init__(
        self,
        backbone: Backbone,
        processor: Any,
        dataset: ConversationDataset,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        max_new_tokens: int = 16,
    ) -> None:
        self.backbone = backbone
        self.processor = processor
        self.dataset = dataset
        self.count = len(dataset) if limit is None else min(limit, len(dataset))
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.prepare = Preparation(backbone.model, processor)
        self.types = sorted({s.question_type for s in dataset.samples[: self.count]})

    def first(self, count: int) -> list[LoadedSample]:
        """The first samples, at most ``count``."""
        return [self.dataset[index] for index in range(min(count, self.count))]

    def answer(self, contestants: Sequence[Contestant]) -> list[Tally]:
        """Let every contestant answer every question, side by side on each batch."""
        facts = decoder_sizes(self.backbone)
        tallies = [Tally(facts, self.types) for _ in contestants]
        plugins = [contestant.plugin for contestant in contestants if contestant.plugin]
        seen = {fact for plugin in plugins for fact in entry_facts(self.backbone, plugin)}
        for samples in self.batches(f"{len(contestants)} contestants"):
            with watching(self.backbone.model, seen):
                shared = self.prepare(samples)
            for contestant, tally in zip(contestants, tallies):
                with contestant.attached(self.backbone.model):
                    own = contestant.prepare
                    batch = shared if own is None else own(samples)
                    self.answer_batch(batch, tally, pruned=contestant.plugin is not None)
        return tallies

    def batches(self, what: str) -> Iterator[list[LoadedSample]]:
        """All questions in order, under a progress bar that says ``what`` is done."""
        starts = range(0, self.count, self.batch_size)
        for start in tqdm(starts, desc=what, unit="batch"):
            end = min(start + self.batch_size, self.count)
            yield [self.dataset[index] for index in range(start, end)]

    def answer_batch(self, batch: Batch, tally: Tally, pruned: bool) -> None:
        """Answer ``batch`` with the model as it is now; ``pruned`` says a plug-in is attached."""
        model, inputs = self.backbone.model, batch["inputs"]
        cache = DynamicCache(config=model.config)
        end_of_prefill = EndOfPrefill(cache)
        said = greedy_answers(
            model,
            self.processor,
            inputs,
            self.max_new_tokens,
            logits_processor=[end_of_prefill],
            **{cache_name(model): cache},
        )
        occupancy = Occupancy.of(self.backbone, inputs, cache if pruned else None)
        tally.add(occupancy, end_of_prefill.kv_bytes)
        tally.metric.update(said, batch["answers"], batch["question_types"])


class EndOfPrefill(LogitsProcessor):
    """Reads the cache's size when the first logits arrive; changes nothing."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache = cache
        self.kv_bytes = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.kv_bytes == 0:
            self.kv_bytes = sum(allocated_bytes(self.cache))
        return scores


def allocated_bytes(cache: Any) -> list[int]:
    """Bytes of keys and values in each layer of a filled ``cache``."""
    return [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]
