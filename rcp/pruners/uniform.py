"""Control: a uniform grid."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class UniformPruner(Pruner):
    """Spreads the kept tokens evenly: farthest-point sampling of the places in the image.

    Starts at the token nearest the centre; works for any count and any aspect ratio. Tokens
    without a place (newlines) come last. Images lie too far apart to compete. [ours]
    """

    name = "uniform"
    paper = "control"
    reads_question = False

    def select(self, view: View, counts: Tensor) -> Tensor:
        facts = [view.grid.float(), view.image_index[..., None], view.alive[..., None]]
        most = view.limit(counts)
        samples = torch.cat(facts, dim=-1).cpu().numpy()
        turns = np.stack([_turns(sample.tobytes(), most) for sample in samples])
        return (torch.from_numpy(turns).to(counts.device) < counts[:, None]) & view.alive


@lru_cache(maxsize=256)
def _turns(sample: bytes, most: int) -> NDArray[np.int64]:
    """The number of the pick, of ``most``, that takes each token; N where none does: (N,).

    ``sample`` is (N, 4) fp32: row, column, image, whether alive. Nothing here depends on what an
    image shows, and nearly all of a data set have the same places: so it is done on the host, once.
    """
    row, column, image, alive = np.frombuffer(sample, np.float32).reshape(-1, 4).T
    placed = ~np.isnan(row + column) & (alive > 0)
    place = np.nan_to_num(np.stack([row, column, 4 * image.clip(min=0)]))
    centre = np.square(place[:2]).sum(0)
    worth = np.where(placed, 100 - centre * 1e-3, -1 - centre)
    worth[alive == 0] = -np.inf
    # tokens nearer the centre win the first pick and every tie; those without a place stay last
    handicap = np.where(placed, centre * 1e-3, -np.inf)
    turns = np.full(len(worth), len(worth), dtype=np.int64)
    for turn in range(min(most, int(alive.sum()))):
        pick = worth.argmax()
        turns[pick] = turn
        gap = np.square(place - place[:, pick, None]).sum(0)
        np.minimum(worth, gap - handicap, out=worth)
        worth[pick] = -np.inf
    return turns
