"""The folder of a run: configuration, versions, command, logs and checkpoints."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from rcp.errors import UserError
from rcp.training.run.deepspeed_adam import IdleUntilNow
from rcp.training.run.non_finite import LeaveOutNonFinite
from rcp.training.run.survival import KeepLast
from rcp.training.run.unreadable import StopAtTooMany
from rcp.version import __version__

BEST, LAST = "best", "last"
"""File names of the checkpoints, without their ending."""

BARREN = {"config.yaml", "run.json", "logs", "tensorboard"}
"""What a run folder may hold before anything worth keeping is in it."""


def refuse_existing_run(folder: Path) -> None:
    """Refuse a folder that already holds a run: its checkpoints may be worth hours."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"'{folder}' is a file. Name a new folder with --run_folder.")
    if os.path.exists(folder / "config.yaml"):
        raise UserError(
            f"'{folder}' already holds a run. Name another folder with --run_folder, go on with "
            "that run by --resume true, or remove the folder first."
        )


@contextmanager
def nothing_left_of_refusals(folder: Path) -> Iterator[None]:
    """Inside, a ``UserError`` takes ``folder`` along while it holds logs of nothing."""
    try:
        yield
    except UserError:
        if os.path.isdir(folder) and {path.name for path in folder.iterdir()} <= BARREN:
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it, too
        raise


def loggers(folder: Path) -> list[Logger]:
    """CSV logs, a new ``version_N`` each time training is resumed, and TensorBoard logs."""
    return [
        CSVLogger(folder, name="logs"),
        TensorBoardLogger(folder, name="tensorboard", version=""),
    ]


def callbacks(folder: Path, checkpoint_every: int = 100, left_out: int = 5) -> list[Callback]:
    """The best checkpoint by accuracy with the tokens dropped, and always the last one.

    ``checkpoint_every``: steps between two writings of the last one; ``left_out``: batches whose
    loss may be NaN or infinite.
    """
    return [
        StopAtTooMany(),
        LeaveOutNonFinite(folder, left_out),
        IdleUntilNow(),
        ModelCheckpoint(
            folder,
            filename=BEST,
            monitor="val/accuracy",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        ),
        KeepLast(folder / f"{LAST}.ckpt", checkpoint_every),
    ]


class SaveRun(SaveConfigCallback):
    """Writes config.yaml and run.json when training starts, not before."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / self.config_filename, overwrite=True)
        (folder / "run.json").write_text(json.dumps(_facts(), indent=2) + "\n")


def _facts() -> dict[str, str]:
    return {
        "command": shlex.join(sys.argv),
        "git": _git_state(),
        "rcp": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pytorch_lightning": pl.__version__,
        "python": platform.python_version(),
    }


def _git_state() -> str:
    """Commit of the code that runs, with what is changed on top; empty outside a repository."""
    here = str(Path(__file__).parent)
    found = []
    # --porcelain names files from the repository's root, wherever in it this one is
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            run = subprocess.run(
                ["git", "-C", here, *command], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        found.append(run.stdout.rstrip())
    return "\n".join(found).rstrip()
