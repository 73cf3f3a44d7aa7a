"""The visual tokens still in play, and their bookkeeping."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rcp.choosing.positions import Positions, columns_of, take_rows
from rcp.choosing.tokens import TokenMap


@dataclass(frozen=True)
class Slots:
    """Visual tokens of a batch: (B, N) bool ``alive``, all of them where ``whole``, which the host
    knows. Which of ``tokens`` they are, ``ranks`` (B, N) or ``found_at`` (B, N), original columns,
    tells; neither: all. The rest is looked up when it is read.
    """

    tokens: TokenMap
    alive: Tensor
    whole: bool
    ranks: Tensor | None = None
    found_at: Tensor | None = None

    @classmethod
    def of(cls, tokens: TokenMap) -> "Slots":
        """All visual tokens, alive where they exist."""
        return cls(tokens, tokens.visual_valid, tokens.visual_at.valid is None)

    @cached_property
    def rank(self) -> Tensor:
        """(B, N) long: the number of each in its sample, before anything was dropped."""
        if self.ranks is not None:
            return self.ranks
        if self.found_at is None:
            return self.tokens.visual_rank
        run = self.tokens.host.visual_run
        assert run is not None, "only from a run are they found by columns"
        return self.found_at - run.start

    @cached_property
    def columns(self) -> Tensor:
        """(B, N) long: their original columns."""
        found = self.found_at
        return self.looked_up(self.tokens.visual_columns) if found is None else found

    @cached_property
    def image_index(self) -> Tensor:
        """(B, N) long: the image each belongs to."""
        return self.looked_up(self.tokens.image_index)

    @cached_property
    def grid(self) -> Tensor:
        """(B, N, 2): the place of each in its image."""
        return self.looked_up(self.tokens.grid)

    @cached_property
    def total(self) -> Tensor:
        """(B,) long: how many a sample had before anything was dropped."""
        return self.tokens.visual_valid.sum(1)

    @property
    def columns_at(self) -> Positions:
        """Their original columns, as a run where they are one."""
        run = self.tokens.host.visual_run if self._untouched else None
        return Positions(self.columns, run, None if self.whole else self.alive)

    def masked(self, keep: Tensor) -> "Slots":
        """The same slots, those outside ``keep`` (B, N) dead."""
        return replace(self, alive=self.alive & keep, whole=False)

    def compacted(self, keep: Tensor, width: int) -> "Slots":
        """Only the slots in ``keep`` (B, N), at most ``width`` a row, raster order preserved."""
        index, alive = columns_of(keep if self.whole else keep & self.alive, width)
        return Slots(self.tokens, alive, False, ranks=self.rank.gather(1, index))

    def shrunk(self, columns: Tensor) -> "Slots":
        """Of slots that are all alive and began as a run, those at ``columns`` (B, n) alone."""
        return Slots(self.tokens, self.alive[:, : columns.shape[1]], True, found_at=columns)

    def looked_up(self, values: Tensor) -> Tensor:
        """Of ``values`` (B, N, ...) of all slots there were, those of these, on their device."""
        return values if self._untouched else take_rows(values, self.rank)

    def over_all(self, values: Tensor) -> Tensor:
        """``values`` (B, N) of these over all slots there were, zero elsewhere."""
        everything = self.tokens.visual_valid
        if self.ranks is None and values.shape == everything.shape:
            return values  # nothing has gone
        zeros = torch.zeros(everything.shape, dtype=values.dtype, device=values.device)
        return zeros.scatter(1, self.rank, values)

    @property
    def _untouched(self) -> bool:
        return self.ranks is None and self.found_at is None
