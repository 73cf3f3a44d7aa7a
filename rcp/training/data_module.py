"""Training and validation batches from conversations."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset
from transformers import ProcessorMixin

from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.conversations.endless import MAKERS, MadeQuestions, NumberedStream
from rcp.conversations.leave_out import LeftOut
from rcp.conversations.source import open_conversations
from rcp.conversations.splits import VALIDATION
from rcp.conversations.stream import StreamedTable, TrainingStream
from rcp.conversations.unreadable import Candidates, Filling, WithStandIns
from rcp.errors import UserError
from rcp.quoting import quoted
from rcp.training.sampler import ResumableSampler

logger = logging.getLogger(__name__)


class ConversationDataModule(pl.LightningDataModule):
    """Conversation files, or Hugging Face data sets of conversations, as batches.

    Args:
        train: JSON file of conversations to train on, or the folder that holds it; image paths are
            relative to that folder. Or a Hugging Face data set: a folder that save_to_disk wrote,
            a parquet or arrow file or a folder of them, or hf:NAME:SPLIT of the hub. Of a folder
            with several splits the one called train, or FOLDER:SPLIT. Or "generated": questions on
            the embedded scenes, made while training and never twice; wants trainer.max_steps
        val: a file or a data set likewise, to validate on; of a folder with several splits the one
            called validation
        image_folder: folder that image paths are relative to, in place of the files' own
        batch_size: samples per training step and process
        val_batch_size: samples per validation step and process
        max_length: longest allowed sample in tokens, image tokens included; longer ones are left
            out with a warning that names them, and others stand in for them
        num_workers: processes that decode images
        group_by_length: put samples of like length into a batch, which saves padding where texts
            or numbers of images differ much
        unreadable: share of the samples, of those to train on and of those to validate on, that
            may be passed over because they cannot be read; one more ends the run with their names
        leave_out: list of training samples not to be read, as check-data --output writes it
        seed: order of the training samples, or which ones are generated
        turns: "first" trains on the first question of each conversation, "all" on each of them in
            its turn: the earlier ones and their answers then stand before it, and are not trained
            on
        streaming: read the Hugging Face data set to train on while training, without a look
            through it before; wants trainer.max_steps
        stream_buffer: samples that each worker holds, not yet decoded, to shuffle a stream
    """

    def __init__(
        self,
        train: str,
        val: str,
        image_folder: str | None = None,
        batch_size: int = 32,
        val_batch_size: int = 32,
        max_length: int = 1024,
        num_workers: int = 0,
        group_by_length: bool = False,
        unreadable: float = 0.001,
        leave_out: str | None = None,
        seed: int = 0,
        streaming: bool = False,
        stream_buffer: int = 1000,
        turns: Literal["first", "all"] = "first",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("max_length", max_length, 1),
            ("num_workers", num_workers, 0),
            ("stream_buffer", stream_buffer, 1),
        ):
            if value < least:
                raise UserError(f"data.{name} is {value}: give a whole number of at least {least}.")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.max_length = max_length
        if not 0 <= unreadable < 1:
            raise UserError(f"data.unreadable is {unreadable}: give a share from 0 to below 1.")
        made = MAKERS.get(train)
        self.endless = streaming or made is not None
        if self.endless and group_by_length:
            raise UserError(
                "data.group_by_length needs the lengths of all samples, which data without an end "
                "do not tell. Set it to false, or train on a file or data set as a whole."
            )
        if streaming and made is not None:
            raise UserError(
                f"data.train is {train}, which is made while training and not read: set "
                "data.streaming to false."
            )
        self.num_workers = num_workers
        self.group_by_length = group_by_length
        self.unreadable = unreadable
        self.seed = seed
        self.stream_buffer = stream_buffer
        self.turns = turns
        every = turns == "all"
        left_out = None if leave_out is None else LeftOut(Path(leave_out))
        self.train_dataset: ConversationDataset | StreamedTable | MadeQuestions
        if made is not None:
            self.train_dataset = made(seed)
        elif streaming:
            self.train_dataset = StreamedTable(train, image_folder, left_out, all_turns=every)
        else:
            self.train_dataset = open_conversations(
                train, image_folder, left_out, all_turns=every
            )
        self.val_dataset = open_conversations(val, image_folder, split=VALIDATION)
        for dataset in (self.train_dataset, self.val_dataset):
            if isinstance(dataset, ConversationDataset):
                _refuse_too_many(dataset, unreadable)

    def setup(self, stage: str) -> None:
        if self.endless:
            assert self.trainer is not None
            _refuse_without_end(self.trainer)

    @property
    def summary(self) -> dict[str, Any]:
        """What is trained on, in plain values."""
        return {
            "train": str(self.train_dataset.path),
            "turns": self.turns,
            "samples": self.samples,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @property
    def samples(self) -> int:
        """Samples in an epoch; without an end, those that one process reads until the last step."""
        if isinstance(self.train_dataset, ConversationDataset):
            return len(self.train_dataset)
        assert self.trainer is not None
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches * self.batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        done = partial(batches_done, self.trainer.fit_loop.epoch_loop.batch_progress)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        if isinstance(self.train_dataset, StreamedTable):
            stream = TrainingStream(
                self.train_dataset,
                self.batch_size,
                self.seed,
                done,
                self.stream_buffer,
                rank,
                ranks,
            )
            return self._train_loader(stream)
        if isinstance(self.train_dataset, MadeQuestions):
            return self._train_loader(
                NumberedStream(self.train_dataset, self.batch_size, done, rank, ranks)
            )
        sampler = ResumableSampler(
            self.train_dataset,
            self.batch_size,
            self.seed,
            done,
            num_replicas=ranks,
            rank=rank,
            lengths=self.train_dataset.lengths if self.group_by_length else None,
        )
        return self._train_loader(
            WithStandIns(self.train_dataset),
            sampler=sampler,
            persistent_workers=self.num_workers > 0,
        )

    def _train_loader(self, dataset: Dataset[Candidates], **more: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=Filling(self.collator(with_answers=True)),
            **more,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            WithStandIns(self.val_dataset),
            batch_size=self.val_batch_size,
            num_workers=self.num_workers,
            collate_fn=Filling(self.collator(with_answers=False)),
        )

    def collator(self, with_answers: bool) -> ConversationCollator:
        """Makes the batches of training, with answers, or those of validation, without."""
        return ConversationCollator(self._processor, self.max_length, with_answers)

    def state_dict(self) -> dict[str, Any]:
        """What the order of data without an end depends on, beside the seed."""
        if not self.endless:
            return {}
        assert self.trainer is not None
        if isinstance(self.train_dataset, MadeQuestions):
            together = self.trainer.world_size * self.batch_size
            return {"data.batch_size times processes": together}
        return {
            "processes": self.trainer.world_size,
            "data.num_workers": self.num_workers,
            "data.batch_size": self.batch_size,
            "data.stream_buffer": self.stream_buffer,
            "data.turns": self.turns,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in self.state_dict().items():
            if (before := state_dict.get(name, value)) != value:
                raise UserError(
                    f"{name} is {value}, but was {before} before: data without an end could not go "
                    f"on where they were. Resume with {name} {before}."
                )

    @property
    def _processor(self) -> ProcessorMixin:
        """The processor of the model that is being trained: one source for both."""
        if self.trainer is None:
            raise RuntimeError("the data module must be attached to a trainer to know the model")
        processor = self.trainer.lightning_module.processor
        assert isinstance(processor, ProcessorMixin)
        return processor


def batches_done(progress: Any) -> int:
    """Batches this process has trained on, by Lightning's own count.

    A checkpoint written at the end of a batch counts it as processed, not yet as completed.
    """
    return int(progress.total.processed)


def _refuse_too_many(dataset: ConversationDataset, share: float) -> None:
    """Refuse a data set more of which than ``share`` is seen not to be readable at once."""
    known = [*dataset.unreadable, *dataset.missing()]
    if len(known) > share * dataset.rows:
        raise UserError(
            f"{len(known)} of {dataset.rows} samples of {quoted(dataset.path)} cannot be read, "
            f"more than data.unreadable = {share:g} allows. 'python -m rcp check-data' lists all "
            f"of them, for data.leave_out. The first one: {known[0]}"
        )
    for fault in dataset.unreadable:
        logger.warning("%s", fault)


def _refuse_without_end(trainer: pl.Trainer) -> None:
    """Refuse settings that count in epochs, where there are none."""
    if trainer.max_steps < 0:
        raise UserError(
            "The data to train on have no end, and trainer.max_steps is not set, so that nothing "
            "would end the training: set trainer.max_steps to the number of steps."
        )
    if trainer.limit_val_batches and isinstance(trainer.val_check_interval, float):
        raise UserError(
            f"trainer.val_check_interval is {trainer.val_check_interval}, a share of an epoch, "
            "which data without an end have not: set trainer.val_check_interval to a whole number "
            "of steps."
        )
