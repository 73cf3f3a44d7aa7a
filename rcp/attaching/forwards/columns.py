"""Which columns of a forward are left, and moving tensors between the two countings."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rcp.attaching.masks import take_mask_columns, take_mask_rows
from rcp.choosing.positions import Positions, columns_of, equally_many, take_rows


class Shrunk(NamedTuple):
    """The run of columns in which alone something has gone, and how many rows are left of it."""

    run: range
    left: int

    @property
    def rows(self) -> range:
        """Where these rows are among all that are left."""
        return range(self.run.start, self.run.start + self.left)


@dataclass(frozen=True)
class Columns:
    """``all`` (B, T) numbers the columns that came in; ``index`` (B, K) long lists those left.

    None for ``index`` means all of them. ``real`` (B, K) bool is False at fillers, which bring
    ragged rows to one width, or None where there are none. ``shrunk`` is known where every sample
    has lost equally many columns, of the same run.
    """

    all: Tensor
    index: Tensor | None = None
    real: Tensor | None = None
    shrunk: Shrunk | None = None

    @classmethod
    def kept(cls, keep: Tensor, counts: list[int], everything: Tensor) -> "Columns":
        """The columns in ``keep`` (B, T) bool, of which row b has ``counts[b]``.

        Fillers stand first, as padding on the left does: a running state begins behind them.
        """
        index, real = columns_of(keep, max(counts))
        order = torch.where(real, index, -1).argsort(dim=1, stable=True)
        real_or_none = real.gather(1, order) if min(counts) < max(counts) else None
        return cls(everything, index.gather(1, order), real_or_none)

    def shrink(self, rows: range, keep: Tensor, each: int) -> tuple["Columns", Tensor]:
        """Lose the ``rows`` outside ``keep`` (B, rows), which leaves ``each`` of every sample.

        Also returns which rows are left of those there were, (B, K').
        """
        before = self.count
        everywhere = pad(keep, (rows.start, before - rows.stop), value=True)
        taken = equally_many(everywhere, before - len(rows) + each)
        index = taken if self.index is None else self.index.gather(1, taken)
        run = rows if self.shrunk is None else self.shrunk.run
        return Columns(self.all, index, None, Shrunk(run, each)), taken

    @property
    def length(self) -> int:
        """T: how many columns came in."""
        return self.all.shape[1]

    @property
    def count(self) -> int:
        """K: how many rows are left, fillers included."""
        return self.current.shape[1]

    @property
    def current(self) -> Tensor:
        """(B, K) the original columns of the rows left."""
        return self.all if self.index is None else self.index

    def locate(self, positions: Positions) -> Positions:
        """Where original columns are among the rows left; anywhere if they are gone."""
        if self.index is None:
            return positions
        if self.shrunk is not None and positions.run is not None:
            run, left = self.shrunk
            if positions.run.stop <= run.start:
                return positions
            if positions.run.start >= run.stop:
                gone = len(run) - left
                moved = range(positions.run.start - gone, positions.run.stop - gone)
                return Positions(run=moved, valid=positions.valid)
        columns = positions.index(self.index)
        rows = torch.arange(self.count, device=columns.device).expand_as(self.index)
        where = torch.zeros(len(rows), self.length, dtype=torch.long, device=columns.device)
        where = where.scatter(1, self.index, rows)
        return Positions(where.gather(1, columns), valid=positions.valid)

    def take(self, values: Tensor) -> Tensor:
        """The rows left of ``values`` (B or 1, T, ...)."""
        return values if self.index is None else take_rows(values, self.index)

    def take_rope(self, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The rows left of (cos, sin), each (B or 1, T, d)."""
        return self.take(rope[0]), self.take(rope[1])

    def take_mask(self, mask: Tensor | None) -> Tensor | None:
        """Rows and columns left of a 4-D mask (B or 1, h, T, T); None stays None."""
        if mask is None or self.index is None:
            return mask
        return take_mask_columns(take_mask_rows(mask, self.index), self.index)

    def scattered(self, hidden: Tensor) -> Tensor:
        """``hidden`` (B, K, D) at its original columns of (B, T, D); zeros where rows are gone."""
        if self.index is None:
            return hidden
        if self.real is not None:
            hidden = torch.where(self.real.to(hidden.device)[..., None], hidden, 0)
        full = hidden.new_zeros(len(hidden), self.length, hidden.shape[-1])
        index = self.index.to(hidden.device)
        return full.scatter(1, index[..., None].expand_as(hidden), hidden)
