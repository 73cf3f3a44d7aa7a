"""DDP and DeepSpeed by one flag: `--trainer.strategy ddp`, `deepspeed_stage_2`, `..._3_offload`.

DeepSpeed needs `pip install "rcp[deepspeed]"`, and on CPUs, where processes speak by gloo, a C++
compiler. Only the plug-in has gradients, optimiser states and a place in checkpoints; under stage 3
the frozen base is sharded, too: each process loads it into host memory, then keeps its share.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DeepSpeedStrategy

from rcp.atomic_write import replace_folder
from rcp.errors import UserError
from rcp.training import checkpoint as checkpoints
from rcp.training.run.survival import AtomicCheckpointIO
from rcp.training.sharded import gathered_weights

OFFLOAD = {"offload_optimizer": True, "offload_parameters": True}
DEEPSPEED: dict[str, dict[str, Any]] = {
    "deepspeed": {"stage": 2},
    "deepspeed_stage_2": {"stage": 2},
    "deepspeed_stage_2_offload": {"stage": 2, "offload_optimizer": True},
    "deepspeed_stage_3": {"stage": 3},
    "deepspeed_stage_3_offload": {"stage": 3, **OFFLOAD},
}


def refuse_deepspeed(strategy: Any, accelerator: Any) -> None:
    """Raise ``UserError`` for a DeepSpeed ``strategy`` that cannot run on this machine."""
    if not isinstance(strategy, str) or not strategy.startswith("deepspeed"):
        return
    if strategy not in DEEPSPEED:
        raise UserError(
            f"trainer.strategy is {strategy}, which there is not. Choose one of "
            f"{', '.join(DEEPSPEED)}, or ddp."
        )
    if find_spec("deepspeed") is None:
        raise UserError(
            f"trainer.strategy is {strategy}, but DeepSpeed is not installed. Install it by "
            "pip install 'rcp[deepspeed]', or use --trainer.strategy ddp."
        )
    if on_cpu(accelerator) and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise UserError(
            f"trainer.strategy is {strategy}, but on CPUs DeepSpeed builds a part of itself with a "
            "C++ compiler, and none is found. Install one (g++), name it in the variable CXX, or "
            "use --trainer.strategy ddp with --trainer.devices N, which gives the same gradients."
        )


def on_cpu(accelerator: Any) -> bool:
    """Whether a trainer with this ``accelerator`` runs on CPUs on this machine."""
    return accelerator == "cpu" or not torch.cuda.is_available()


def chosen_strategy(strategy: Any, accelerator: Any) -> Any:
    """The name of a DeepSpeed strategy as ours; anything else as it is."""
    if not isinstance(strategy, str) or strategy not in DEEPSPEED:
        return strategy
    if on_cpu(accelerator):
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is first imported
    return PluginDeepSpeed(**DEEPSPEED[strategy])


class PluginDeepSpeed(DeepSpeedStrategy):
    """DeepSpeed that leaves the frozen base out of checkpoints and never half-writes one.

    A checkpoint is a folder: DeepSpeed's own shards, to resume from with equally many processes,
    and beside them the plug-in in one file as every other strategy writes it, to export from
    without DeepSpeed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(exclude_frozen_parameters=True, **options)
        assert isinstance(self.config, dict)
        # offloaded, torch's own AdamW will do: a plug-in is small
        self.config["zero_force_ds_cpu_optimizer"] = False

    def setup_environment(self) -> None:
        """Lightning's own, which refuses CPUs and wants devices that have an index."""
        if isinstance(self.accelerator, CPUAccelerator):
            assert self.parallel_devices is not None
            count = len(self.parallel_devices)
            self.parallel_devices = [torch.device("cpu", index) for index in range(count)]
        super(DeepSpeedStrategy, self).setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        target = Path(self.broadcast(filepath))
        unfinished = target.with_name(f".{target.name}-unfinished")
        if self.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        training: Any = self.lightning_module
        weights = gathered_weights(training.plugin)
        if self.is_global_zero:
            state = {f"{checkpoints.PREFIX}{name}": value for name, value in weights.items()}
            AtomicCheckpointIO().save_checkpoint(
                {**_plain(checkpoint), "state_dict": state}, unfinished / checkpoints.WHOLE
            )
            replace_folder(unfinished, target)
        self.barrier()


def _plain(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What of ``checkpoint`` is read without the optimiser: our entry, step and versions."""
    wanted = (checkpoints.ENTRY, "global_step", "epoch", "pytorch-lightning_version")
    return {name: checkpoint[name] for name in wanted if name in checkpoint}
