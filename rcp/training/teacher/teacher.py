"""The frozen model without its plug-in: computed, or read from what an earlier run kept."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from torch import Tensor

from rcp.attaching.encoder_watch import vision_facts
from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.given_images import encode_images, given_images
from rcp.backbones import backbone_for
from rcp.base_model.fingerprint import fingerprint
from rcp.conversations import (
    PLACEHOLDER,
    Batch,
    ConversationCollator,
    LoadedSample,
    Sample,
    on_device,
)
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.training.distributed import any_process
from rcp.training.objective import answer_columns
from rcp.training.sharded import is_sharded
from rcp.training.teacher.cache import Keep, TeacherCache, kept_answers, kept_relevance
from rcp.training.teacher.passes import Answers, Lesson, answers_of, relevant, watched

BLANK = 224
"""Side of an image that shows nothing, in pixels."""


class Teacher:
    """What ``model`` gives for a batch with ``plugin`` off; ``folder`` keeps it, None keeps none.

    The folder gets parts, each of which has to be opened before it is of use: a run keeps what it
    asks for, and the next one takes it from there. Without ``keep_images`` it holds no features.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        plugin: Plugin,
        folder: Path | None,
        keep_images: bool = True,
    ) -> None:
        self.model = model
        self.processor = processor
        self.plugin = plugin
        self.folder = folder
        self.keep_images = keep_images
        # what a method reads off the encoder at work cannot be had from features made beforehand
        facts = vision_facts(entry_facts(backbone_for(model), plugin))
        self.encodes_anew = bool(set(facts) - {"projector"})
        self.kept: dict[str, Keep | None] = {
            "images": None,
            "answers": self._kept_answers,
            "relevance": self._kept_relevance,
            "validation": None,
        }
        self.caches: dict[str, TeacherCache] = {}

    def open(self, part: str, trainer: pl.Trainer) -> None:
        """Open ``part`` of the folder, and complete it together with the other processes.

        "images" holds the features of the samples to train on, "answers" and "relevance" what
        their names say of these, "validation" the features of the samples to validate on.
        """
        if self.keeps(part) and part not in self.caches:
            cache = self.filled(part, trainer, trainer.global_rank, trainer.world_size)
            trainer.strategy.barrier()
            self.caches[part] = cache

    def keeps(self, part: str) -> bool:
        """Whether the folder is to hold ``part``."""
        return self.folder is not None and (self.keep_images or self.kept[part] is not None)

    def filled(self, part: str, trainer: pl.Trainer, rank: int, ranks: int) -> TeacherCache:
        """``part`` of the folder with the share of process ``rank`` of ``ranks`` in it.

        Raises ``UserError`` for data without an end, whose samples are not known beforehand.
        """
        assert self.folder is not None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data.endless:
            raise UserError(
                "model.teacher_cache keeps something for each sample, which data without an end do "
                "not list. Set model.teacher_cache to null, or train on a file or data set as a "
                "whole."
            )
        training = part != "validation"
        dataset = data.train_dataset if training else data.val_dataset
        marks = fingerprint(
            self.model,
            self.processor,
            dataset,
            precision=trainer.precision,
            max_length=data.max_length,
            part=part,
        )
        cache, keep = TeacherCache(self.folder / part, marks, dataset), self.kept[part]
        with trainer.precision_plugin.forward_context():
            cache.build(
                self.model,
                data.collator(with_answers=training),
                data.batch_size,
                keep,
                encode=self._encoded if keep is None else None,
                rank=rank,
                ranks=ranks,
                together=is_sharded(self.model),
            )
        return cache

    def images(self, batch: Batch, part: str) -> Any:
        """The batch's image features for :func:`rcp.attaching.given_images.given_images`.

        None where every forward has to encode them itself.
        """
        if self.encodes_anew:
            return None
        cached = self.caches[part].images(batch) if part in self.caches else None
        return self._encoded(batch["inputs"], cached)

    def _encoded(self, inputs: dict[str, Tensor], cached: Any = None) -> Any:
        """The features of the images among ``inputs``, if not ``cached``; None without images.

        With a sharded base all processes fetch the encoder's weights together: where one has to
        encode, one that has nothing to encode does so with a blank image.
        """
        encodes = cached is None and "pixel_values" in inputs
        if is_sharded(self.model):
            device = inputs["input_ids"].device
            if any_process(encodes, device) and not encodes:
                encode_images(self.model, on_device(self._blank, device)["inputs"])
        return encode_images(self.model, inputs) if encodes else cached

    @cached_property
    def _blank(self) -> Batch:
        image = Image.new("RGB", (BLANK, BLANK))
        sample = Sample("blank", (Path("blank"),), f"{PLACEHOLDER}\n", "", "")
        collate = ConversationCollator(self.processor, sys.maxsize, with_answers=False)
        return collate([LoadedSample(sample, (image,))])

    def answers(self, batch: Batch, layers: Sequence[int]) -> Answers:
        """Logits (B, C, V) as :func:`answer_logits` gives them, and the answer rows of ``layers``.

        From the folder the logits are right at the answer rows only.
        """
        if "answers" in self.caches:
            columns = answer_columns(batch["labels"])
            return self.caches["answers"].answers(batch, layers, columns)
        return answers_of(self.model, self.plugin, batch, layers)

    def lesson(
        self,
        batch: Batch,
        views: Sequence[int],
        attention: Sequence[int] = (),
        answers: Sequence[int] | None = None,
    ) -> Lesson:
        """What a guide teaches from: the views of the layers ``views``, and the attention of the
        layers ``attention``, or else each visual token's relevance to the answer. With ``answers``
        these, too, as :meth:`answers` gives them.

        What no folder holds is computed in one pass.
        """
        kept = answers is None or "answers" in self.caches
        missing = None if kept else answers
        if not attention and "relevance" not in self.caches:
            found = relevant(self.model, self.plugin, batch, views, missing)
        else:
            found = watched(self.model, self.plugin, batch, views, attention, missing)
            if not attention:
                found = replace(found, relevance=self.caches["relevance"].relevance(batch))
        if answers is None or not kept:
            return found
        return replace(found, answers=self.answers(batch, answers))

    def _kept_relevance(self, batch: Batch) -> dict[str, Tensor]:
        with given_images(self.model, self.images(batch, "images")):
            lesson = relevant(self.model, self.plugin, batch)
        valid = lesson.trace.visual_valid
        assert lesson.relevance is not None and valid is not None
        return kept_relevance(batch, lesson.relevance, valid.sum(1).tolist())

    def _kept_answers(self, batch: Batch) -> dict[str, Tensor]:
        # of all layers, where a layer's output is one row a token: what repair compares
        repairable = backbone_for(self.model).repairable
        layers = range(self.plugin.num_layers if repairable else 0)
        with given_images(self.model, self.images(batch, "images")):
            return kept_answers(batch, *answers_of(self.model, self.plugin, batch, layers))
