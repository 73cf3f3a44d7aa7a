"""AdamW under DeepSpeed, whose flat parameters move together, as it is without."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from rcp.training.phases import Moment


class IdleUntilNow(pl.Callback):
    """Begins AdamW's count of steps anew for what stood still while the guide taught the pruners.

    Elsewhere a parameter without a gradient is passed over. DeepSpeed gives it a gradient of
    zero, and its bias correction would be that of old moments when it first has one. What has
    moments of zero alone has learnt nothing yet.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if not isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        training: Any = pl_module
        before: Moment = training.moment_at(max(0, trainer.global_step - 1))
        if before.phase == "guided" != training.moment.phase:
            (optimizer,) = trainer.optimizers
            begin_anew(optimizer)


def begin_anew(optimizer: Any) -> None:
    """Set the count of steps to 0 wherever the first moment is zero."""
    for state in optimizer.state.values():
        count = state.get("step")
        if isinstance(count, Tensor) and not state["exp_avg"].any():
            count.zero_()
