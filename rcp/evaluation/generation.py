"""Answers by greedy ``generate``, and what the cache held when the prefill ended."""

import time
from collections.abc import Iterable, Sequence
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
from rcp.conversations.sample import Unreadable
from rcp.conversations.unreadable import first_rows, read
from rcp.errors import UserError
from rcp.evaluation.answers import Answer, AnsweredBatch, Places
from rcp.evaluation.contestants import FULL, Contestant
from rcp.evaluation.keeping import InMemory, Keeping
from rcp.evaluation.metrics.occupancy import occupancies
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.places import places_of
from rcp.evaluation.prefill import synchronise
from rcp.evaluation.preparation import Preparation
from rcp.evaluation.scoring import ExactMatchScoring, Scoring
from rcp.quoting import quoted


class NothingReadable(UserError):
    """There is nobody to be compared with anybody: not one question could be asked."""


class Questions:
    """The first ``limit`` rows of a data set, answered batch by batch, as ``scoring`` judges them.

    ``unreadable`` are those that cannot be: of rows from the start, of images and of what the
    processor refuses as soon as somebody has been asked them.
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
        scoring: Scoring | None = None,
    ) -> None:
        self.backbone = backbone
        self.processor = processor
        self.dataset = dataset
        self.asked, self.unreadable = first_rows(dataset, limit)
        self.count = len(self.asked)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.scoring = scoring or ExactMatchScoring()
        self.prepare = Preparation(backbone.model, processor)

    def first(self, count: int) -> list[LoadedSample]:
        """The first samples that can be read, at most ``count``."""
        found: list[LoadedSample] = []
        for start in range(0, self.count, count):
            if len(found) < count:
                numbers = self.asked[start : start + count]
                found += read(self.dataset, numbers, self.prepare.collate).items
        return found[:count]

    def answer(self, contestants: Sequence[Contestant]) -> list[Tally]:
        """Let every contestant answer every question, side by side on each batch.

        Raises ``NothingReadable``, a ``UserError``, if none of the questions can be read.
        """
        kept = InMemory()
        self.answer_missing(contestants, kept)
        return self.tallies(contestants, kept)

    def answer_missing(self, contestants: Sequence[Contestant], kept: Keeping) -> None:
        """Likewise those batches that ``kept`` lacks; each goes there as soon as it is answered."""
        for number in tqdm(
            kept.missing(self._batches), desc=f"{len(contestants)} contestants", unit="batch"
        ):
            numbers = self.asked[number * self.batch_size :][: self.batch_size]
            kept.add(number, self._answered(numbers, contestants, kept.wants_places))

    def tallies(self, contestants: Sequence[Contestant], kept: Keeping) -> list[Tally]:
        """What ``kept`` has of each contestant; raises ``NothingReadable`` as :meth:`answer`."""
        answers: list[list[Answer]] = [[] for _ in contestants]
        for batch in kept.all(self._batches):
            self._note(batch.faults)
            for found, more in zip(answers, batch.answers):
                found += more
        if not answers[0]:
            raise NothingReadable(
                f"None of {len(self.unreadable)} questions of {quoted(self.dataset.path)} can be "
                f"read. {self.unreadable[0]}"
            )
        facts, samples = decoder_sizes(self.backbone), self.dataset.samples
        return [
            Tally(facts, self.scoring, [samples[answer.index] for answer in found], found)
            for found in answers
        ]

    @property
    def _batches(self) -> int:
        return -(-self.count // self.batch_size)

    def _note(self, faults: Iterable[Unreadable]) -> None:
        known = set(map(str, self.unreadable))
        self.unreadable += [fault for fault in faults if str(fault) not in known]

    def _answered(
        self, numbers: Sequence[int], contestants: Sequence[Contestant], with_places: bool
    ) -> AnsweredBatch:
        """What everybody answers to the samples ``numbers`` that can be read."""
        found = read(self.dataset, numbers, self.prepare.collate)
        answers: list[list[Answer]] = [[] for _ in contestants]
        if found.items:
            by_id = {self.dataset.samples[number].id: number for number in numbers}
            read_numbers = [by_id[item.sample.id] for item in found.items]
            with watching(self.backbone.model, self._watched(contestants)):
                shared = self.prepare(found.items)
            for contestant, own in zip(contestants, answers):
                with contestant.attached(self.backbone.model):
                    prepare = contestant.prepare or (self.prepare if contestant.encodes else None)
                    batch = shared if prepare is None else prepare(found.items)
                    own += self._answers(contestant, read_numbers, batch, with_places)
        return AnsweredBatch(answers, found.faults)

    def _watched(self, contestants: Sequence[Contestant]) -> set[str]:
        """What their plug-ins read of images while these are encoded."""
        plugins = [contestant.plugin for contestant in contestants if contestant.plugin]
        return {fact for plugin in plugins for fact in entry_facts(self.backbone, plugin)}

    def _answers(
        self, contestant: Contestant, numbers: Sequence[int], batch: Batch, with_places: bool
    ) -> list[Answer]:
        """What ``contestant``, who is attached, answers to the samples ``numbers`` in ``batch``."""
        model, inputs, plugin = self.backbone.model, batch["inputs"], contestant.plugin
        places: list[Places] | list[None] = [None] * len(numbers)
        if with_places and contestant.method == FULL:
            places = places_of(self.backbone, inputs)
        cache = DynamicCache(config=model.config)
        end_of_prefill = EndOfPrefill(cache)
        synchronise(model.device)
        start = time.perf_counter()
        said = greedy_answers(
            model,
            self.processor,
            inputs,
            self.max_new_tokens,
            logits_processor=[end_of_prefill],
            **{cache_name(model): cache},
        )
        synchronise(model.device)
        taken = 1000 * (time.perf_counter() - start)
        layers = () if plugin is None else plugin.schedule.layers
        tokens = occupancies(self.backbone, inputs, cache, layers)
        shares = end_of_prefill.kv_bytes / len(numbers), taken / len(numbers)
        return [
            Answer(number, text, held, *shares, placed)
            for number, text, held, placed in zip(numbers, said, tokens, places)
        ]


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
    """Bytes of keys and values, or of a running state, in each layer of a filled ``cache``."""
    return [sum(tensor.nbytes for tensor in _held(layer)) for layer in cache.layers]


def _held(layer: Any) -> list[Tensor]:
    """What a layer of a cache holds; one that reuses another's keys holds nothing."""
    states = [getattr(layer, name, None) for name in ("conv_states", "recurrent_states")]
    found = [getattr(layer, "keys", None), getattr(layer, "values", None)]
    found += [one for state in states for one in (state.values() if state else ())]
    return [tensor for tensor in found if tensor is not None]
