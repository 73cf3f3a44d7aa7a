"""What happens when a loss is NaN or infinite: the batch is left out, and too many end the run."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcp.errors import StoppedTogether

FILE = "non_finite.json"
"""Lists the batches left out, in the folder of the run."""


class LeaveOutNonFinite(pl.Callback):
    """Leaves out a batch whose loss is not finite, ``limit`` times at most.

    Its gradient is zero beside those of the other batches accumulated for a step. If there is no
    other, the step is not taken: weights and optimiser stay bit for bit what they were, and only
    the schedules go on. (DeepSpeed keeps gradients to itself: there the step is taken with a
    gradient of zero.) Every process does the same, since the loss is one of the whole micro-batch.
    The sample ids of this process go to ``folder``. Raises ``StoppedTogether`` after the
    last one allowed.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.found: list[dict[str, Any]] = []
        self._finite = torch.tensor(True)
        self._accumulated: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hooks = [
            parameter.register_hook(self._kept)
            for parameter in pl_module.parameters()
            if parameter.requires_grad
        ]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        self._finite = loss.detach().isfinite()
        self._accumulated.append(self._finite)

    def _kept(self, gradient: Tensor) -> Tensor:
        # 0 * NaN is NaN: the gradient must be replaced; done on the device, nothing waits for it
        return torch.where(self._finite, gradient, 0)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not torch.stack(self._accumulated).any():
            # with a gradient of zero, momentum and weight decay would still move the weights
            optimizer.zero_grad(set_to_none=True)
        self._accumulated.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self._finite:
            return
        self.found.append({"step": trainer.global_step, "ids": list(batch["ids"])})
        pl_module.log("train/left_out", float(len(self.found)))
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / FILE).write_text(json.dumps(self.found, indent=2) + "\n")
        if len(self.found) > self.limit:
            raise StoppedTogether(
                f"The loss was not finite for {len(self.found)} batches, more than the "
                f"{self.limit} that may be left out; their sample ids are in "
                f"'{self.folder / FILE}'. Look at these samples, lower "
                "model.optimizer.learning_rate, or set trainer.gradient_clip_val."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = list(state_dict["found"])
