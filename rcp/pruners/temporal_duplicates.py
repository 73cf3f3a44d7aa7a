"""Control: what has not changed since the frame before goes first."""

from dataclasses import replace

import torch
from torch import Tensor

from rcp.choosing.greedy import normalised
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.pruners.uniform import UniformPruner


class TemporalDuplicatesPruner(Pruner):
    """Drops what is most like the same place of the frame before, first of all its equals.

    Likeness is the cosine of projected tokens. What has no predecessor stays before all others,
    spread evenly where that alone is too much: the first frame, what has no place (newlines) or
    one that the frame before lacks, and what has lost its predecessor at an earlier stage. [ours]
    """

    name = "temporal_duplicates"
    paper = "control"
    needs = frozenset({"projected", "frame_index"})
    reads_question = False

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.evenly = UniformPruner(hidden_size)

    def select(self, view: View, counts: Tensor) -> Tensor:
        before = predecessors(view)
        unit = normalised(view.given("projected"))
        there = before.clamp(min=0)[..., None].expand_as(unit)
        likeness = (unit * unit.gather(1, there)).sum(-1).round(decimals=9)
        fresh = view.alive & (before < 0)
        few = torch.minimum(counts, fresh.sum(1))
        first = replace(view, alive=fresh, whole=False, each=None)
        kept = self.evenly.select(first, few)
        return kept | top_k(1 - likeness, view.alive & ~fresh, counts - few)


def predecessors(view: View) -> Tensor:
    """The slot of the alive token at the same place of the frame before: (B, N) long, -1 for none.

    Of tokens of a frame that share a place, as those of tiles do, the first alone has one: the last
    of those of the frame before.
    """
    frame, alive = view.given("frame_index"), view.alive
    row, column = view.grid.float().unbind(-1)
    row = torch.where(alive, row, torch.nan)  # the dead stand apart, and equal nobody
    order = torch.where(alive, frame, frame.shape[1]).argsort(dim=1, stable=True)
    for key in (column, row):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    row, column, frame = (fact.gather(1, order) for fact in (row, column, frame))
    same = torch.zeros_like(alive)
    same[:, 1:] = (row[:, 1:] == row[:, :-1]) & (column[:, 1:] == column[:, :-1])
    same[:, 1:] &= frame[:, 1:] == frame[:, :-1] + 1
    before = torch.where(same, order.roll(1, 1), -1)
    return torch.zeros_like(before).scatter(1, order, before)
