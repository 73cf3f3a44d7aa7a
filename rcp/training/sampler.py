"""The order of the training samples, also after a resume in the middle of an epoch."""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any

from torch.utils.data import DistributedSampler


class ResumableSampler(DistributedSampler[Any]):
    """Each process' share of the samples, shuffled by ``seed`` and epoch.

    ``batches_done`` tells how many batches of ``batch_size`` this process has trained on since
    the start of the run. Epoch and position follow from it alone, so a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int,
        batches_done: Callable[[], int],
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.batches_done = batches_done

    def __iter__(self) -> Iterator[Any]:
        batches = -(-self.num_samples // self.batch_size)
        epoch, done = divmod(self.batches_done(), batches)
        self.set_epoch(epoch)
        return islice(super().__iter__(), done * self.batch_size, None)
