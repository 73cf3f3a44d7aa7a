"""The end of a run in which too many samples cannot be read."""

import logging
from typing import Any

import pytorch_lightning as pl

from rcp.errors import UserError
from rcp.quoting import quoted

logger = logging.getLogger(__name__)

SHOWN = 20
"""Samples that a message names; the log has all of them."""


class StopAtTooMany(pl.Callback):
    """Logs each sample that others stand in for; ends the run at too many that cannot be read.

    Samples to train on and samples to validate on are counted apart, those included whose rows
    were seen to be broken when the data were opened. More than the share ``data.unreadable``
    raises ``UserError``; those that are merely too long are counted, and never too many. Each
    process counts its own.
    """

    def __init__(self) -> None:
        self.skipped: dict[str, dict[str, str]] = {"train": {}, "val": {}}
        self.too_long: dict[str, list[str]] = {"train": [], "val": []}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._count(batch, "train", data.train_dataset, data.samples, data.unreadable)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._count(batch, "val", data.val_dataset, len(data.val_dataset), data.unreadable)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part, names in self.too_long.items():
            if names:
                logger.warning(
                    "%d samples of data.%s were left out for their length.", len(names), part
                )

    def _count(self, batch: Any, part: str, dataset: Any, samples: int, share: float) -> None:
        known, long = self.skipped[part], self.too_long[part]
        new = []
        for skipped in batch["skipped"]:
            if skipped.id in known or skipped.id in long:
                continue
            if skipped.too_long:
                long.append(skipped.id)
                logger.warning("%s It is left out.", skipped.why)
                continue
            known[skipped.id] = skipped.why
            new.append(skipped)
            logger.warning("Sample %s is passed over: %s", quoted(skipped.id), skipped.why)
        broken = getattr(dataset, "unreadable", [])  # of a stream nothing was known beforehand
        if new and len(known) + len(broken) > share * (samples + len(broken)):
            names = [*known, *(fault.id for fault in broken)]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(
                f"{len(names)} samples could not be read, more than data.unreadable = "
                f"{share:g} of {samples + len(broken)} allows: "
                f"{', '.join(map(quoted, names[:SHOWN]))}{more}. 'python -m rcp check-data' lists "
                f"all there are, for data.leave_out. The last one: {new[-1].why}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "too_long": self.too_long}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        skipped = state_dict["skipped"]
        if "too_long" not in state_dict:  # as it was saved before 2026-12
            skipped = {"train": skipped, "val": {}}
        self.skipped = {part: dict(known) for part, known in skipped.items()}
        long = state_dict.get("too_long", {"train": [], "val": []})
        self.too_long = {part: list(names) for part, names in long.items()}
