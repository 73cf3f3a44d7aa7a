"""Which columns of a forward are left, and moving tensors between the two countings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.attaching.masks import take_mask_columns, take_mask_rows
from rcp.choosing.tokens import columns_of, take_rows


@dataclass(frozen=True)
class Columns:
    """``length`` T columns came in; ``index`` (B, K) long lists those left, ascending.

    None for ``index`` means all of them. ``real`` (B, K) bool is False at fillers, which bring
    ragged rows to one width, or None where there are none.
    """

    length: int
    index: Tensor | None = None
    real: Tensor | None = None

    @classmethod
    def kept(cls, keep: Tensor, counts: list[int]) -> "Columns":
        """The columns in ``keep`` (B, T) bool, of which row b has ``counts[b]``."""
        index, real = columns_of(keep, max(counts))
        order = index.argsort(1)
        real_or_none = real.gather(1, order) if min(counts) < max(counts) else None
        return cls(keep.shape[1], index.gather(1, order), real_or_none)

    def columns(self, like: Tensor) -> Tensor:
        """(B, K) original columns; ``like`` (B, ...) gives their number and device."""
        if self.index is not None:
            return self.index
        return torch.arange(self.length, device=like.device).expand(len(like), -1)

    def locate(self, columns: Tensor) -> Tensor:
        """Where the original ``columns`` (B, X) are among the rows left; 0 where they are gone."""
        if self.index is None:
            return columns
        rows = torch.arange(self.index.shape[1], device=columns.device).expand_as(self.index)
        where = torch.zeros(len(rows), self.length, dtype=torch.long, device=columns.device)
        return where.scatter(1, self.index, rows).gather(1, columns)

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
