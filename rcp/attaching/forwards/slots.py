"""The visual tokens still in play, and their bookkeeping."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rcp.choosing.tokens import TokenMap, columns_of, take_rows


@dataclass(frozen=True)
class Slots:
    """Visual tokens of a batch: (B, N) ``columns``, ``alive``, ``rank`` (number within the sample
    before anything was dropped), ``image_index``; (B, N, 2) ``grid``; (B,) ``total``: how many a
    sample had then."""

    columns: Tensor
    alive: Tensor
    rank: Tensor
    image_index: Tensor
    grid: Tensor
    total: Tensor

    @classmethod
    def of(cls, tokens: TokenMap) -> "Slots":
        """All visual tokens, alive where they exist."""
        columns = tokens.visual_columns
        rank = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
        return cls(
            columns=columns,
            alive=tokens.visual_valid,
            rank=rank,
            image_index=tokens.image_index,
            grid=tokens.grid,
            total=tokens.visual_valid.sum(1),
        )

    def to(self, device: torch.device) -> "Slots":
        """All of it on ``device``."""
        return Slots(
            columns=self.columns.to(device),
            alive=self.alive.to(device),
            rank=self.rank.to(device),
            image_index=self.image_index.to(device),
            grid=self.grid.to(device),
            total=self.total.to(device),
        )

    def masked(self, keep: Tensor) -> "Slots":
        """The same slots, those outside ``keep`` (B, N) dead."""
        return replace(self, alive=self.alive & keep)

    def compacted(self, keep: Tensor, width: int) -> "Slots":
        """Only the slots in ``keep`` (B, N), at most ``width`` a row, raster order preserved."""
        index, alive = columns_of(keep, width)
        return Slots(
            columns=self.columns.gather(1, index),
            alive=alive,
            rank=self.rank.gather(1, index),
            image_index=self.image_index.gather(1, index),
            grid=take_rows(self.grid, index),
            total=self.total,
        )
