"""What a training has logged step by step, read from its TensorBoard events, which bear times."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RESERVED = "DeviceStatsMonitor.on_train_batch_end/reserved_bytes.all.peak"
"""``torch.cuda.max_memory_reserved``, by Lightning's own callback."""

ENDS = 3
"""Steps at either end of a run whose mean loss is compared."""


@dataclass(frozen=True)
class RunLog:
    """``losses`` of all steps, the wall ``times`` in seconds when they were logged, and the
    ``reserved`` bytes of CUDA memory, at most; None on a CPU."""

    losses: Sequence[float]
    times: Sequence[float]
    reserved: int | None

    @property
    def ends(self) -> tuple[float, float]:
        """Mean loss of the first and of the last steps."""
        return statistics.mean(self.losses[:ENDS]), statistics.mean(self.losses[-ENDS:])

    @property
    def seconds_per_step(self) -> float:
        """Median of the time between two steps."""
        return statistics.median(b - a for a, b in zip(self.times, self.times[1:]))


def read_log(run_folder: Path) -> RunLog:
    """The log of a run of train.py that logged every step."""
    events = EventAccumulator(str(run_folder / "tensorboard"), {"scalars": 0})
    events.Reload()
    loss: list[Any] = events.Scalars("train/loss")
    known = events.Tags()["scalars"]
    reserved = [int(one.value) for one in events.Scalars(RESERVED)] if RESERVED in known else []
    return RunLog(
        [one.value for one in loss], [one.wall_time for one in loss], max(reserved, default=None)
    )
