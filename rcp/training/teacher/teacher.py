"""The frozen model without its plug-in: computed, or read from what an earlier run kept."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.attaching.encoder_watch import vision_facts
from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.given_images import encode_images, given_images
from rcp.attaching.trace import Trace
from rcp.backbones import backbone_for
from rcp.conversations import (
    PLACEHOLDER,
    Batch,
    ConversationCollator,
    LoadedSample,
    Sample,
    on_device,
)
from rcp.errors import UserError
from rcp.objectives.losses import task_loss
from rcp.objectives.relevance import relevance
from rcp.plugin import Plugin
from rcp.training.distributed import any_process
from rcp.training.objective import answer_columns, answer_logits
from rcp.training.sharded import is_sharded
from rcp.training.teacher.cache import Keep, TeacherCache, kept_answers, kept_relevance
from rcp.training.teacher.fingerprint import fingerprint

BLANK = 224
"""Side of an image that shows nothing, in pixels."""


class Teacher:
    """What ``model`` gives for a batch with ``plugin`` off; ``folder`` keeps it, None keeps none.

    The folder gets one part for the samples to train on and one, of images alone, for those to
    validate on. Both have to be opened before they are of use.
    """

    def __init__(self, model: Any, processor: Any, plugin: Plugin, folder: Path | None) -> None:
        self.model = model
        self.processor = processor
        self.plugin = plugin
        self.folder = folder
        # what a method reads off the encoder at work cannot be had from features made beforehand
        facts = vision_facts(entry_facts(backbone_for(model), plugin))
        self.encodes_anew = bool(set(facts) - {"projector"})
        self.kept: dict[str, Keep | None] = {
            "train": self._kept_answers,
            "relevance": self._kept_relevance,
            "validation": None,
        }
        self.caches: dict[str, TeacherCache] = {}

    def open(self, part: str, trainer: pl.Trainer) -> None:
        """Open ``part`` of the folder, and complete it if need be.

        "train" holds images and answer rows, "relevance" that of the same samples, "validation"
        images alone. Raises ``UserError`` for data without an end, whose samples are not known
        beforehand.
        """
        if self.folder is None or part in self.caches:
            return
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
        cache = TeacherCache(self.folder / part, marks, dataset)
        with trainer.precision_plugin.forward_context():
            cache.build(
                self.model,
                data.collator(with_answers=training),
                data.batch_size,
                self.kept[part],
                encode=None if part == "relevance" else self._encoded,
                rank=trainer.global_rank,
                ranks=trainer.world_size,
                together=is_sharded(self.model),
            )
        trainer.strategy.barrier()
        self.caches[part] = cache

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

    def answers(self, batch: Batch, layers: Sequence[int]) -> tuple[Tensor, Trace]:
        """Logits (B, C, V) as :func:`answer_logits` gives them, and the answer rows of ``layers``.

        From the folder the logits are right at the answer rows only.
        """
        if "train" in self.caches:
            columns = answer_columns(batch["labels"])
            return self.caches["train"].answers(batch, layers, columns)
        return self._computed(batch, layers)

    def relevance(self, batch: Batch) -> Tensor:
        """How much each visual token matters to the answer in each layer, (B, L, N) fp32.

        In a unit of its own for each sample. See
        :func:`rcp.objectives.relevance.relevance`; it costs a forward and a backward pass.
        """
        if "relevance" in self.caches:
            return self.caches["relevance"].relevance(batch)
        return self._relevance(batch)[0]

    def _relevance(self, batch: Batch) -> tuple[Tensor, Trace]:
        with torch.enable_grad(), attach(self.model, self.plugin, "record") as handle:
            with handle.trace(biases=range(self.plugin.num_layers)) as trace:
                logits, labels = answer_logits(self.model, batch)
            return relevance(trace, -task_loss(logits, labels)), trace

    def _kept_relevance(self, batch: Batch) -> dict[str, Tensor]:
        with given_images(self.model, self.images(batch, "train")):
            found, trace = self._relevance(batch)
        assert trace.visual_valid is not None
        return kept_relevance(batch, found, trace.visual_valid.sum(1).tolist())

    def _kept_answers(self, batch: Batch) -> dict[str, Tensor]:
        return kept_answers(batch, *self._computed(batch, range(self.plugin.num_layers)))

    def _computed(self, batch: Batch, layers: Sequence[int]) -> tuple[Tensor, Trace]:
        with torch.no_grad(), attach(self.model, self.plugin, "record") as handle:
            with handle.trace(answers=layers) as trace:
                logits, _ = answer_logits(self.model, batch)
        return logits, trace
