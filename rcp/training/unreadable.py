"""Samples that cannot be read: passed over and counted, until there are too many."""

import logging
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import Dataset

from rcp.conversations import ConversationDataset, LoadedSample
from rcp.errors import UserError

logger = logging.getLogger(__name__)


class PassingOver(Dataset[LoadedSample]):
    """``dataset``, with the next readable sample in the place of one that cannot be read.

    Batches so keep their size, in every process alike. What was passed over is noted on the
    sample that stands in for it, which is how it gets out of the workers.
    """

    def __init__(self, dataset: ConversationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LoadedSample:
        skipped: list[tuple[str, str]] = []
        for step in range(len(self)):
            number = (index + step) % len(self)
            try:
                item = self.dataset[number]
            except UserError as error:
                skipped.append((self.dataset.samples[number].id, str(error)))
                continue
            return LoadedSample(item.sample, item.images, tuple(skipped))
        raise UserError(f"No sample of '{self.dataset.path}' can be read. {skipped[0][1]}")


class StopAtTooMany(pl.Callback):
    """Logs each sample passed over by its id; raises ``UserError`` at more than ``share`` of all.

    Each process counts its own.
    """

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        new = {name: why for name, why in batch["skipped"] if name not in self.skipped}
        if not new:
            return
        self.skipped |= new
        for name, why in new.items():
            logger.warning("Sample '%s' is passed over: %s", name, why)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        allowed = data.unreadable * data.samples
        if len(self.skipped) > allowed:
            raise UserError(
                f"{len(self.skipped)} samples could not be read, more than data.unreadable = "
                f"{data.unreadable:g} of {data.samples} allows: "
                f"{', '.join(self.skipped)}. The last one: {why}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = dict(state_dict["skipped"])
