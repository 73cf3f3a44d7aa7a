"""Control: a uniform grid."""

import torch
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

    def select(self, view: View, counts: Tensor) -> Tensor:
        placed = ~view.grid.isnan().any(-1) & view.alive
        place = torch.nan_to_num(view.grid.float())
        place = torch.cat([place, 4.0 * view.image_index[..., None].clamp(min=0)], dim=-1)
        # distance to what is kept; tokens nearer the centre win the first pick and every tie
        centre = place[..., :2].square().sum(-1)
        distance = 100.0 - centre * 1e-3
        keep = torch.zeros_like(view.alive)
        for step in range(view.limit(counts)):
            rank = torch.where(placed, distance, -1.0 - centre).masked_fill(
                ~view.alive | keep, -torch.inf
            )
            pick = rank.argmax(1, keepdim=True)
            keep |= torch.zeros_like(keep).scatter(1, pick, step < counts[:, None]) & view.alive
            gap = (place - place.gather(1, pick[..., None].expand(-1, -1, 3))).square().sum(-1)
            distance = torch.minimum(distance, gap - centre * 1e-3)
        return keep
