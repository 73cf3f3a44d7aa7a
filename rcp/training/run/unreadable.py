"""The end of a run in which too many samples cannot be read."""

import logging
from typing import Any

import pytorch_lightning as pl

from rcp.errors import UserError

logger = logging.getLogger(__name__)


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
