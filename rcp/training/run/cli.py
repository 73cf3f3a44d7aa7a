"""The command line of a training: LightningCLI with its one subcommand, `fit`, implied."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from rcp.atomic_write import standing
from rcp.backbones import backbone_for
from rcp.errors import UserError
from rcp.training.checkpoint import check_goes_on, check_resumable, read_checkpoint
from rcp.training.data_module import ConversationDataModule
from rcp.training.objective import parts_of_teacher
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.config_files import configs_first, only_our_classes
from rcp.training.run.folder import (
    LAST,
    SaveRun,
    callbacks,
    loggers,
    nothing_left_of_refusals,
    refuse_existing_run,
)
from rcp.training.run.refusals import (
    refuse_bare_parts,
    refuse_impossible,
    refuse_late_validation,
    refuse_seed,
    refuse_single_samples,
)
from rcp.training.run.strategies import PluginDeepSpeed, chosen_strategy
from rcp.training.run.survival import AtomicCheckpointIO

ADVICE = "Add the import path to import_path_allowlist in set_parsing_settings to allow it"
"""What the parser says to programmers where a configuration names what it may not."""


class TrainingCLI(LightningCLI):
    """One run: parse, refuse what cannot work, measure the start, train."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"] | {"weights_only"}}

    def setup_parser(self, *arguments: Any) -> None:
        super().setup_parser(*arguments)
        self._subcommand_parsers["fit"].prog = self.parser.prog  # what was typed: `fit` was not

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            "--run_folder",
            type=str,
            default="runs/rcp",
            help="new folder for configuration, logs, best.ckpt and last.ckpt of this run",
        )
        parser.add_argument(
            "--resume",
            type=bool,
            default=False,
            help="go on from last.ckpt of the run folder where there is one; start where not",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=int,
            default=100,
            help="steps between two writings of last.ckpt: what a killed run loses at most",
        )
        parser.add_argument(
            "--left_out",
            type=int,
            default=5,
            help="batches left out for a loss that is NaN or infinite before the run stops",
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ImportError as error:  # of a class that nobody may name
            raise UserError(_paragraph(error)) from error
        refuse_seed(self.config.fit.seed_everything)

    def _parse_ckpt_path(self) -> None:
        """Lightning's own lets a checkpoint's hyper-parameters change the configuration.

        Ours hold none, and nothing that a file says counts before it is known to be ours.
        """

    def before_instantiate_classes(self) -> None:
        refuse_impossible(self.config.fit)
        last = standing(self._folder / f"{LAST}.ckpt")
        if self.config.fit.resume and os.path.exists(last):
            self.config.fit.ckpt_path = str(last)
        if self.config.fit.ckpt_path is not None:
            chosen = standing(Path(self.config.fit.ckpt_path))
            read_checkpoint(chosen)
            self.config.fit.ckpt_path = str(chosen)
        elif not self.config.fit.resume:
            refuse_existing_run(self._folder)

    def instantiate_classes(self) -> None:
        """Lightning's own, with a package that is missing as a ``UserError``."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            missing = _missing_package(error)
            if missing is None:
                raise
            raise UserError(
                f"A class that the configuration names needs a package that is not installed: "
                f"{missing}. Install it, or name another class, for example in trainer.logger."
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The configuration's trainer with our loggers, callbacks, strategy and checkpoint writer.

        Raises ``UserError`` for fields that Lightning refuses.
        """
        chosen = self.config_init.fit.trainer
        rates = []  # Lightning's monitor refuses a trainer without a logger
        if chosen.logger is not False:
            further = None if chosen.logger is True else chosen.logger
            kwargs["logger"] = [*loggers(self._folder), *_listed(further)]
            rates = [LearningRateMonitor(logging_interval="step")]
        ours = callbacks(
            self._folder, self.config.fit.checkpoint_every, self.config.fit.left_out
        )
        kwargs["callbacks"] = [*ours, *rates, *(chosen.callbacks or [])]
        kwargs["strategy"] = chosen_strategy(chosen.strategy, chosen.accelerator)
        if not isinstance(kwargs["strategy"], PluginDeepSpeed):  # which writes checkpoints itself
            kwargs["plugins"] = [AtomicCheckpointIO(), *_listed(chosen.plugins)]
        kwargs["default_root_dir"] = self._folder
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
            raise UserError(
                f"The trainer cannot be made: {' '.join(str(error).split())} Correct the fields of "
                f"trainer; 'rcp train --help' lists them."
            ) from error

    def before_fit(self) -> None:
        """The last checks, and the accuracy that training starts from."""
        refuse_single_samples(self.model, self.datamodule, self.trainer)
        refuse_late_validation(self.datamodule, self.trainer)
        if self.config.fit.ckpt_path is not None:
            path = Path(self.config.fit.ckpt_path)
            checkpoint = read_checkpoint(path)
            check_resumable(checkpoint, self.model.plugin, backbone_for(self.model.model))
            if not os.path.isdir(path):  # of a DeepSpeed run the rest is in its shards
                check_goes_on(checkpoint)
        elif not isinstance(self.trainer.strategy, PluginDeepSpeed):  # its engine is for training
            with nothing_left_of_refusals(self._folder):
                self.trainer.validate(self.model, self.datamodule, verbose=False)

    def fit(self, **arguments: Any) -> None:
        """Resume without running any code that a checkpoint may carry."""
        with nothing_left_of_refusals(self._folder):
            self.trainer.fit(**arguments, weights_only=True)

    @property
    def _folder(self) -> Path:
        return Path(self.config.fit.run_folder)


class ReadingCLI(TrainingCLI):
    """Parses like a run, and makes nothing of what it reads."""

    def before_instantiate_classes(self) -> None:
        refuse_bare_parts(self.config.fit)

    def instantiate_classes(self) -> None:
        """Nothing is made."""

    def _add_instantiators(self) -> None:
        """Nothing is made."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


class LabellingCLI(TrainingCLI):
    """Makes all that a run of a single process needs, and runs nothing."""

    def before_instantiate_classes(self) -> None:
        refuse_impossible(self.config.fit)
        trainer = self.config.fit.trainer
        trainer.strategy, trainer.devices, trainer.num_nodes = "auto", 1, 1
        trainer.logger = False

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


def label(arguments: Sequence[str], process: int, processes: int) -> list[str]:
    """Write the share of ``process`` of ``processes`` in the teacher cache of a run with these
    ``arguments``; a line about each part.

    Raises ``UserError`` for what a run would refuse, and where it has no such cache.
    """
    made = _parsed(LabellingCLI, arguments)
    training, trainer = made.model, made.trainer
    trainer.datamodule = made.datamodule  # type: ignore[attr-defined]
    made.datamodule.trainer = trainer
    trainer.strategy.connect(training)
    training.to(trainer.strategy.root_device)
    asked = [*parts_of_teacher(training.weights, training.guide, training.policy), "validation"]
    parts = [part for part in asked if training.teacher.keeps(part)]
    if not parts:
        raise UserError(
            "model.teacher_cache is null, so that the run keeps nothing of its teacher. Name a "
            "folder that all processes share with --model.teacher_cache."
        )
    caches = [training.teacher.filled(part, trainer, process, processes) for part in parts]
    return [
        f"{cache.shards.folder}: {cache.files - cache.missing} of {cache.files} files are there"
        for cache in caches
    ]


def read_configuration(arguments: Sequence[str]) -> Namespace:
    """What a run with these ``arguments`` would be given, defaults included, as plain values.

    Raises ``UserError`` for what the parser refuses; loads nothing and writes nothing.
    """
    return _parsed(ReadingCLI, arguments).config.fit


def run(arguments: Sequence[str], prog: str = "rcp train") -> None:
    """Train as ``arguments`` say; raises ``UserError`` for what cannot be.

    ``prog`` is what the usage line begins with.
    """
    # the frozen model is meant to be in evaluation mode
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    _parsed(TrainingCLI, arguments, prog)


def _parsed(
    cli: type[TrainingCLI], arguments: Sequence[str], prog: str | None = None
) -> TrainingCLI:
    parser = {"exit_on_error": False, "prog": prog}
    only_our_classes()
    try:
        return cli(
            PluginTraining,
            ConversationDataModule,
            save_config_callback=SaveRun,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={"num_sanity_val_steps": 0},  # the start is measured in full
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={**parser, "fit": parser},
            args=["fit", *configs_first(arguments)],
        )
    except ArgumentError as error:
        raise UserError(_paragraph(error)) from error


def _listed(chosen: Any) -> list[Any]:
    """What the trainer's configuration has ``chosen`` as a list: none, one, or several."""
    if chosen is None:
        return []
    return list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]


def _missing_package(error: BaseException) -> str | None:
    """What the import behind ``error`` lacked: the parser wraps it, and tells all it has tried."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    return None if cause is None else " ".join(str(cause).split()).rstrip(".")


def _paragraph(error: Exception) -> str:
    """The parser's complaint in one paragraph, without the implied subcommand."""
    complaint = " ".join(str(error).split())
    complaint = complaint.replace("fit.", "").replace("Subcommand 'fit'", "The configuration")
    complaint = complaint.replace(ADVICE, "Classes of pytorch_lightning may be named").rstrip(".")
    return (
        f"{complaint}. Correct it in the configuration or on the command line; "
        "'rcp train --help' lists every field with its type."
    )
