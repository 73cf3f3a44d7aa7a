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
from rcp.conversations.unreadable import first_rows, read
from rcp.errors import UserError
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.preparation import Preparation
from rcp.quoting import quoted


class Questions:
    """The first ``limit`` rows of a data set, answered batch by batch.

    ``unreadable`` are those that cannot be: of rows from the start, of images and of what the
    processor refuses as soon as their batch is reached.
    """

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
        self.asked, self.unreadable = first_rows(dataset, limit)
        self.count = len(self.asked)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.prepare = Preparation(backbone.model, processor)
        self.types = sorted({dataset.samples[n].question_type for n in self.asked})

    def first(self, count: int) -> list[LoadedSample]:
        """The first samples that can be read, at most ``count``."""
        found: list[LoadedSample] = []
        for start in range(0, len(self.asked), count):
            if len(found) < count:
                found += self._read(self.asked[start : start + count])
        return found[:count]

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
        """All questions in order, under a progress bar that says ``what`` is done.

        Raises ``UserError`` at the end if none of them could be read.
        """
        readable = False
        for start in tqdm(range(0, len(self.asked), self.batch_size), desc=what, unit="batch"):
            items = self._read(self.asked[start : start + self.batch_size])
            if items:
                readable = True
                yield items
        if not readable:
            raise UserError(
                f"None of {len(self.unreadable)} questions of {quoted(self.dataset.path)} can be "
                f"read. {self.unreadable[0]}"
            )

    def _read(self, numbers: Sequence[int]) -> list[LoadedSample]:
        """The samples that can be read; the others are noted, once."""
        found = read(self.dataset, numbers, self.prepare.collate)
        known = set(map(str, self.unreadable))
        self.unreadable += [fault for fault in found.faults if str(fault) not in known]
        return found.items

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
