"""The folder of a run: configuration, versions, command, logs and checkpoints."""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from rcp.errors import UserError
from rcp.version import __version__

BEST, LAST = "best", "last"
"""File names of the checkpoints, without their ending."""


def refuse_existing_run(folder: Path) -> None:
    """Refuse a folder that already holds a run: its checkpoints may be worth hours."""
    if (folder / "config.yaml").exists():
        raise UserError(
            f"'{folder}' already holds a run. Name another folder with --run_folder, go on with "
            f"that run by --ckpt_path {folder / LAST}.ckpt, or remove the folder first."
        )


def loggers(folder: Path) -> list[Logger]:
    """CSV logs, a new ``version_N`` each time training is resumed, and TensorBoard logs."""
    return [
        CSVLogger(folder, name="logs"),
        TensorBoardLogger(folder, name="tensorboard", version=""),
    ]


def callbacks(folder: Path) -> list[Callback]:
    """Checkpoints at every validation, the best by accuracy with the tokens dropped."""
    after_validation: dict[str, Any] = {
        "enable_version_counter": False,
        "save_on_train_epoch_end": False,
    }
    return [
        ModelCheckpoint(
            folder, filename=BEST, monitor="val/accuracy", mode="max", **after_validation
        ),
        ModelCheckpoint(folder, filename=LAST, **after_validation),
        LearningRateMonitor(logging_interval="step"),
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
        "rcp": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pytorch_lightning": pl.__version__,
        "python": platform.python_version(),
    }
