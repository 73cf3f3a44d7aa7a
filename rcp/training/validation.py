"""Validation of a plug-in in training: it generates with the tokens really dropped."""

from itertools import compress
from typing import Any

import pytorch_lightning as pl

from rcp.attaching.attach import attach
from rcp.attaching.given_images import given_images
from rcp.base_model.answering import greedy_answers
from rcp.conversations import Batch
from rcp.objectives.exact_match import ExactMatch
from rcp.plugin import Plugin
from rcp.training.sharded import independent_copy, is_sharded
from rcp.training.teacher.teacher import Teacher


class ValidatedTraining(pl.LightningModule):
    """The accuracy of ``plugin`` on ``model`` by question type, and once the full model's.

    A training sets these; ``results`` then holds the latest accuracies by name.
    """

    model: Any
    processor: Any
    plugin: Plugin
    teacher: Teacher
    max_new_tokens: int
    results: dict[str, float]

    def on_validation_epoch_start(self) -> None:
        self.teacher.open("validation", self.trainer)
        types = self.trainer.datamodule.val_dataset.question_types  # type: ignore[attr-defined]
        self._pruned = ExactMatch(types).to(self.device)
        self._full = None if "full_accuracy" in self.results else ExactMatch(types).to(self.device)
        # A copy: "drop" casts to the model's dtype, which must not happen to the trained weights.
        self._deployed = [independent_copy(self.plugin)]  # in a list, so as not to be a part

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with given_images(self.model, self.teacher.images(batch, "validation")):
            with attach(self.model, self._deployed[0], "drop"):
                self._score(self._pruned, batch)
            if self._full is not None:
                self._score(self._full, batch)

    def on_validation_epoch_end(self) -> None:
        scores = dict(self._pruned.compute())
        if self._full is not None:
            scores |= {f"full_{name}": value for name, value in self._full.compute().items()}
        # of a type that the batches of a validation did not reach there is nothing to say
        scores = {name: value for name, value in scores.items() if not value.isnan()}
        for name, value in scores.items():
            self.log(f"val/{name}", value, prog_bar=name == "accuracy", sync_dist=True)
        if not self.trainer.sanity_checking:
            self.results |= {name: round(float(value), 6) for name, value in scores.items()}

    def _score(self, metric: ExactMatch, batch: Batch) -> None:
        predictions = greedy_answers(
            self.model,
            self.processor,
            batch["inputs"],
            self.max_new_tokens,
            # with sharded weights every process must go on until the last one is done
            synced_gpus=is_sharded(self.model),
        )
        # what stands in for a sample that cannot be read keeps the processes in step, no more
        columns = (predictions, batch["answers"], batch["question_types"])
        metric.update(*(list(compress(column, batch["own"])) for column in columns))
