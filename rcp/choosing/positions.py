"""Where some rows are among others."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """X rows of each sample among R others.

    ``run`` says that they follow on each other, at the same places in every sample: they are then
    sliced. Else ``listed`` (B, X) long lists them, to be gathered. ``valid`` (B, X) bool is False
    at slots that do not exist, and None where the host knows that all do.
    """

    listed: Tensor | None = None
    run: range | None = None
    valid: Tensor | None = None

    def to(self, device: torch.device) -> "Positions":
        """The same on ``device``."""
        return Positions(
            None if self.listed is None else self.listed.to(device),
            self.run,
            None if self.valid is None else self.valid.to(device),
        )

    def index(self, like: Tensor) -> Tensor:
        """(B, X) long; ``like`` (B, ...) gives number and device."""
        if self.listed is not None:
            return self.listed.to(like.device)
        assert self.run is not None
        run = torch.arange(self.run.start, self.run.stop, device=like.device)
        return run.expand(len(like), -1)

    def take(self, values: Tensor) -> Tensor:
        """These rows of ``values`` (B or 1, R, ...): (B, X, ...), on their device; as many samples
        as ``values`` has, where a run is taken."""
        if self.run is not None:
            return values[:, self.run.start : self.run.stop]
        assert self.listed is not None
        return take_rows(values, self.listed)

    def take_last(self, values: Tensor) -> Tensor:
        """These entries of the last dimension of ``values`` (B, H, Q, R): (B, H, Q, X)."""
        if self.run is not None:
            return values[..., self.run.start : self.run.stop]
        assert self.listed is not None
        index = self.listed.to(values.device)[:, None, None]
        return values.gather(3, index.expand(-1, *values.shape[1:3], -1))


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, K) of ``values`` (B or 1, T, ...) → (B, K, ...), on their device."""
    index = index.to(values.device)  # layers may be spread over devices, indices live on one
    values = values.expand(index.shape[0], *values.shape[1:])
    shape = index.shape + (1,) * (values.dim() - 2)
    return values.gather(1, index.view(shape).expand(*index.shape, *values.shape[2:]))


def columns_of(mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The columns where ``mask`` (B, T) holds, in order, as (B, width) long, and which are real.

    Slots past a row's own count hold other columns of that row, marked unreal.
    """
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, :width]
    return order, mask.gather(1, order)


def equally_many(mask: Tensor, each: int) -> Tensor:
    """The columns where ``mask`` (B, T) holds, ``each`` in every row, in order: (B, each) long.

    Where a row has another number the result is of no use, but in bounds.
    """
    found = torch.nonzero_static(mask, size=each * len(mask), fill_value=0)
    return found[:, 1].view(len(mask), each)
