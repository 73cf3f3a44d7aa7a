"""The order of the training samples, also after a resume in the middle of an epoch."""

from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DistributedSampler

WINDOW = 50
"""Batches among which samples are put together by length: a longer one would undo the shuffle."""


class ResumableSampler(DistributedSampler[Any]):
    """Each process' share of the samples, shuffled by ``seed`` and epoch.

    ``batches_done`` tells how many batches of ``batch_size`` this process has trained on since
    the start of the run. Epoch and position follow from it alone, so a resumed run sees what an
    uninterrupted one would have seen. With ``lengths``, one a sample, batches hold samples of
    like length, the processes' batches of one step together.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int,
        batches_done: Callable[[], int],
        num_replicas: int = 1,
        rank: int = 0,
        lengths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.batches_done = batches_done
        self.lengths = lengths

    def __iter__(self) -> Iterator[Any]:
        batches = -(-self.num_samples // self.batch_size)
        epoch, done = divmod(self.batches_done(), batches)
        self.set_epoch(epoch)
        order = super().__iter__() if self.lengths is None else iter(self._grouped(self.lengths))
        return islice(order, done * self.batch_size, None)

    def _grouped(self, lengths: Sequence[int]) -> list[int]:
        """This process' samples of the epoch, batch by batch of like length."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(lengths), generator=generator).tolist()
        order += order[: self.total_size - len(order)]
        together = self.batch_size * self.num_replicas
        grouped: list[list[int]] = []
        for start in range(0, len(order), WINDOW * together):
            window = sorted(order[start : start + WINDOW * together], key=lambda n: -lengths[n])
            grouped += [window[at : at + together] for at in range(0, len(window), together)]
        # the incomplete batch must stay the last one; the others must not come by length
        whole = [batch for batch in grouped if len(batch) == together]
        rest = [batch for batch in grouped if len(batch) < together]
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        batches = [whole[number] for number in shuffled] + rest
        return [sample for batch in batches for sample in batch[self.rank :: self.num_replicas]]
