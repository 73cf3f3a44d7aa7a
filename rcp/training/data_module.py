"""Training and validation batches from conversation files."""

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader
from transformers import ProcessorMixin

from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.errors import UserError
from rcp.training.sampler import ResumableSampler
from rcp.training.table import TableDataset, is_table
from rcp.training.unreadable import PassingOver


class ConversationDataModule(pl.LightningDataModule):
    """Conversation files, or Hugging Face data sets of conversations, as batches.

    Args:
        train: JSON file of conversations to train on, or the folder that holds it; image paths are
            relative to that folder. Or a Hugging Face data set: a folder that save_to_disk wrote,
            a parquet or arrow file, or hf:NAME:SPLIT of the hub
        val: likewise, to validate on
        image_folder: folder that image paths are relative to, in place of the files' own
        batch_size: samples per training step and process
        val_batch_size: samples per validation step and process
        max_length: longest allowed sample in tokens, image tokens included; longer ones are left
            out with a warning that names them
        num_workers: processes that decode images
        group_by_length: put samples of like length into a batch, which saves padding where texts
            or numbers of images differ much
        unreadable: share of the training samples that may be passed over because they cannot be
            read; one more ends the run with the list of them
        seed: order of the training samples
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("max_length", max_length, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise UserError(f"data.{name} is {value}: give a whole number of at least {least}.")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.max_length = max_length
        if not 0 <= unreadable < 1:
            raise UserError(f"data.unreadable is {unreadable}: give a share from 0 to below 1.")
        self.num_workers = num_workers
        self.group_by_length = group_by_length
        self.unreadable = unreadable
        self.seed = seed
        self.train_dataset = _open(train, image_folder)
        self.val_dataset = _open(val, image_folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What is trained on, in plain values."""
        return {
            "train": str(self.train_dataset.path),
            "samples": len(self.train_dataset),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        # a checkpoint written at the end of a batch counts it as processed, not yet as completed
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        sampler = ResumableSampler(
            self.train_dataset,
            self.batch_size,
            self.seed,
            batches_done=lambda: progress.total.processed,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            lengths=self.train_dataset.lengths if self.group_by_length else None,
        )
        return DataLoader(
            PassingOver(self.train_dataset),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collator(with_answers=True),
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            self.val_dataset,
            batch_size=self.val_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.collator(with_answers=False),
        )

    def collator(self, with_answers: bool) -> ConversationCollator:
        """Makes the batches of training, with answers, or those of validation, without."""
        return ConversationCollator(self._processor, self.max_length, with_answers)

    @property
    def _processor(self) -> ProcessorMixin:
        """The processor of the model that is being trained: one source for both."""
        if self.trainer is None:
            raise RuntimeError("the data module must be attached to a trainer to know the model")
        processor = self.trainer.lightning_module.processor
        assert isinstance(processor, ProcessorMixin)
        return processor


def _open(source: str, image_folder: str | None) -> ConversationDataset:
    return TableDataset(source) if is_table(source) else ConversationDataset(source, image_folder)
