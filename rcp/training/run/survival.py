"""Checkpoints that a run goes on from: written whole, at an interval, and when it is stopped."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from rcp.atomic_write import atomic
from rcp.errors import StoppedTogether, UserError

SIGNALS = {signal.SIGTERM: 0, signal.SIGINT: 130}
"""What ends a run after the present step, and the exit status that the run then has."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, also after a power cut.

    Lightning's own writer moves a temporary file of another folder, which on clusters is often
    another file system: the move is then a copy that can be cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            with atomic(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # what torch makes of a full disk
            raise UserError(
                f"The checkpoint '{path}' cannot be written ({error.__context__ or error}). What "
                "was there before it still is: make room, and go on with --resume true."
            ) from error


class KeepLast(Checkpoint):
    """Writes ``path`` every ``every`` steps, after each validation, and however a run ends.

    All of it happens while the strategy is up: once that is torn down, the weights have left the
    device on which processes speak with each other.

    No checkpoint holds a gradient that is still being accumulated: after a validation between two
    batches of one step, that step is finished first. (Only a signal in such a validation does not
    wait: the batches that the step has seen are then lost to it.)

    A SIGTERM, as schedulers send before they take a node away, ends the run after the present
    step with exit status 0: the job may be queued again with `--resume true`. So does a first
    Ctrl-C, with 130; a second one ends it at once.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._asked_to_stop = 0
        self._steps = 0
        self._between_steps = True
        self._due = False
        self._handlers_before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # by now Lightning has set its own handler, which would lose the steps since the last save
        self._handlers_before = {each: signal.signal(each, self._note) for each in SIGNALS}
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
        self._save(trainer)
        self._listen_no_more()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        between_steps = trainer.global_step != self._steps or self._between_steps
        if isinstance(exception, StoppedTogether) and between_steps:
            self._save(trainer)
        self._listen_no_more()

    def _note(self, number: int, _: FrameType | None) -> None:
        self._asked_to_stop = number
        if number == signal.SIGINT:  # schedulers may repeat a SIGTERM, to groups of processes
            signal.signal(number, self._handlers_before[number])

    def _listen_no_more(self) -> None:
        while self._handlers_before:
            signal.signal(*self._handlers_before.popitem())

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Together with all other processes, of which only some may have got the signal."""
        if trainer.strategy.reduce_boolean_decision(bool(self._asked_to_stop), all=False):
            self._save(trainer)
            number = self._asked_to_stop or signal.SIGTERM
            if trainer.is_global_zero:
                print(
                    f"Stopped by {signal.Signals(number).name} after step {trainer.global_step}. "
                    "The same command with --resume true goes on from there."
                )
            raise SystemExit(SIGNALS[signal.Signals(number)])

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
