"""Runs that cannot work, refused before anything is loaded or written."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace

from rcp.errors import UserError
from rcp.refusals import refuse_unwritable
from rcp.training.data_module import ConversationDataModule
from rcp.training.frozen_base import refuse_untrainable_base
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.strategies import refuse_deepspeed


def refuse_seed(seed: bool | int) -> None:
    """Refuse what is no seed of 32 bits."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything is {seed}: give a whole number from 0 to {2**32 - 1}.")


def refuse_bare_parts(config: Any) -> None:
    """Refuse a value in place of the fields of ``trainer`` or ``model.plugin``."""
    if not isinstance(config.trainer, Namespace):
        raise UserError(
            f"trainer is {config.trainer}: give its fields, such as max_steps; 'rcp train "
            f"--help' lists them."
        )
    if not isinstance(config.model.plugin, Namespace):
        raise UserError(
            f"model.plugin is {config.model.plugin}: give its fields, such as stages, or budget "
            f"and layers; 'rcp train --help' lists them."
        )


def refuse_impossible(config: Any) -> None:
    """Refuse fields of ``config`` that cannot be, each with what is allowed."""
    refuse_bare_parts(config)
    trainer = config.trainer
    _refuse_precision(trainer.precision)
    refuse_deepspeed(trainer.strategy, trainer.accelerator)
    for name, value, least in (
        ("checkpoint_every", config.checkpoint_every, 1),
        ("left_out", config.left_out, 0),
        ("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
    ):
        if value < least:
            raise UserError(f"{name} is {value}: give a whole number of at least {least}.")
    clip = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        raise UserError(f"trainer.gradient_clip_val is {clip}: give 0 or more, or null for none.")
    for name in ("val_check_interval", "limit_train_batches"):
        value = trainer[name]
        if isinstance(value, (int, float)) and not value > 0:
            raise UserError(
                f"trainer.{name} is {value}: give a number of batches above 0, or a share of them "
                "above 0, up to 1.0."
            )
    if not config.run_folder:
        raise UserError("run_folder is empty. Name a new folder with --run_folder.")
    refuse_unwritable(Path(config.run_folder), "run_folder")
    refuse_untrainable_base(config.model.base)  # its weights, and the data, take minutes to read


def refuse_single_samples(
    training: PluginTraining, data: ConversationDataModule, trainer: pl.Trainer
) -> None:
    """Refuse a repair loss over batches of one."""
    if "repair" in training.weights and data.batch_size * trainer.world_size < 2:
        raise UserError(
            "data.batch_size is 1 in a single process, but the repair loss compares means and "
            "variances over the answer rows of a batch, which one sample of one to three rows "
            "does not have. Use a batch of at least 2 (better 32), more processes, or "
            "model.loss.repair 0."
        )


def refuse_late_validation(data: ConversationDataModule, trainer: pl.Trainer) -> None:
    """Refuse a validation after more batches than an epoch has: Lightning would, but later."""
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
    if data.endless or not by_epoch or not isinstance(interval, int):
        return
    batches = -(-data.samples // (data.batch_size * trainer.world_size))
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if interval > batches:
        raise UserError(
            f"trainer.val_check_interval is {interval} batches, but an epoch of these data has "
            f"{batches}. Give fewer, a share of an epoch such as 0.5, or null for "
            "trainer.check_val_every_n_epoch to count batches across epochs."
        )


def _refuse_precision(precision: Any) -> None:
    name = str(precision)
    if name.startswith("16"):
        raise UserError(
            f"trainer.precision is {name}, but training in fp16 is not possible: masked keys "
            "are weighted by 1e-12, which fp16 cannot hold. Use bf16-mixed or 32-true."
        )
    if precision is not None and name not in ("32", "32-true", "bf16", "bf16-mixed"):
        raise UserError(
            f"trainer.precision is {name}, but the plug-in is kept in fp32, where small steps do "
            "not vanish. Use bf16-mixed or 32-true; model.dtype is the precision of the frozen "
            "model."
        )
