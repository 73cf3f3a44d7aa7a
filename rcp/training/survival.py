"""Checkpoints that a killed run goes on from: written whole, at an interval, and on SIGTERM."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from rcp.errors import UserError
from rcp.writing import whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, also after a power cut.

    Lightning's own writer moves a temporary file of another folder, which on clusters is often
    another file system: the move is then a copy that can be cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            with whole(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # what torch makes of a full disk
            raise UserError(
                f"The checkpoint '{path}' cannot be written ({error.__context__ or error}). What "
                "was there before it still is: make room, and go on with --resume true."
            ) from error


class KeepLast(Checkpoint):
    """Writes ``path`` every ``every`` steps, after each validation, and when SIGTERM comes.

    No checkpoint holds a gradient that is still being accumulated: after a validation between two
    batches of one step, that step is finished first. (Only a SIGTERM in such a validation does not
    wait: the batches that the step has seen are then lost to it.)

    A SIGTERM, as schedulers send before they take a node away, ends the run after the present
    step with exit status 0: the job may be queued again with `--resume true`.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._asked_to_stop = False
        self._steps = 0
        self._between_steps = True
        self._due = False
        self._handler_before: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # by now Lightning has set its own handler, which would lose the steps since the last save
        self._handler_before = signal.signal(signal.SIGTERM, self._note)
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._between_steps = trainer.global_step != self._steps
        if not self._between_steps:
            return
        self._steps = trainer.global_step
        self._stop_if_asked(trainer)
        if self._due or trainer.global_step % self.every == 0:
            self._due = False
            self._save(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._due = not self._between_steps
            if not self._due:
                self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self._handler_before)

    def _note(self, _: int, __: FrameType | None) -> None:
        self._asked_to_stop = True

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Together with all other processes, of which only some may have got the signal."""
        if trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False):
            self._save(trainer)
            signal.signal(signal.SIGTERM, self._handler_before)
            if trainer.is_global_zero:
                print(
                    f"Stopped by SIGTERM after step {trainer.global_step}. The same command with "
                    "--resume true goes on from there."
                )
            raise SystemExit(0)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
