"""Several trainings one after another in the same processes, since starting them takes seconds.

    torchrun --nproc_per_node 2 -m tests.many_trainings plan.json

The plan lists trainings: ``arguments`` of train.py, and what shall happen in it. ``unanswered`` is
the rank that finds no answer in its batches of odd number; ``kill`` the step after which rank 0
kills itself. After each training every process writes what it held of the frozen base at its end
to ``held`` of the run folder, a file named by its rank.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import train
from rcp.choosing.tokens import IGNORED
from rcp.training.plugin_training import PluginTraining
from rcp.training.run import cli


class ToldTraining(PluginTraining):
    """A training to which happens what ``plan`` says."""

    plan: dict[str, Any] = {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.plan.get("unanswered") == self.global_rank and batch_idx % 2:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.plan.get("kill") == self.global_step and self.global_rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self) -> None:
        parameters = list(self.model.parameters())
        held = {
            "held": sum(_here(parameter).numel() for parameter in parameters),
            "of": sum(getattr(p, "ds_numel", p.numel()) for p in parameters),
        }
        file = Path(self.trainer.default_root_dir) / "held" / f"{self.global_rank}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(held))


def _here(parameter: Any) -> torch.Tensor:
    return getattr(parameter, "ds_tensor", parameter)


def main(plan: Path) -> int:
    """Exit status: that of the first training that fails."""
    torch.set_num_threads(1)
    cli.PluginTraining = ToldTraining  # type: ignore[misc]
    for told in json.loads(plan.read_text()):
        ToldTraining.plan = told
        if status := train.main(told["arguments"]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
