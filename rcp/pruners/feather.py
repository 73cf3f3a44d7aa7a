"""FEATHER: attention without positions, and an even grid beside it at first."""

import torch
from torch import Tensor

from rcp.choosing.groups import consecutive
from rcp.choosing.schedule import Published
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class FeatherPruner(Pruner):
    """Attention of the last text token in the layer before, without rotary (FEATHER's code).

    Softmax over image keys only, mean over heads: rotary favours tokens near the question. The
    first stage keeps every ``stride``-th row and column of the image besides; a later one goes by
    attention alone. As published the grid joins the top 30 %, 209 of 576 together; here it takes
    its slots first and attention fills the rest, so that exactly k stay, and where the grid alone
    exceeds k the best of it by attention do. [ours] The second stage keeps 9 % of what is left.
    """

    name = "feather"
    paper = "arXiv 2412.13180"
    needs = frozenset({"attention_before"})
    published = (Published("Prismatic-SigLIP-7B", 32, (8, 16), (209 / 576, 18 / 576)),)

    def __init__(self, hidden_size: int, *, stride: int = 3) -> None:
        super().__init__(hidden_size)
        check_range("stride", stride, 1, 2**16)
        self.stride = stride

    def forward(self, view: View) -> Tensor:
        attention = view.blocks("attention_before")
        last = attention("last", rotary=False, among_visual=True)
        score = total_attention(last) / last.shape[1]
        if view.stage > 0:
            return score
        on_grid = (cells(view) % self.stride == 0).all(-1)
        return score + 2.0 * on_grid  # above any attention


def cells(view: View) -> Tensor:
    """Row and column of each token in its image, (B, N, 2) long; -1 where it has no place.

    Places are the centres of cells, so the first row or column of an image tells their number.
    """
    place = view.grid.float()
    known = view.alive & ~place.isnan().any(-1)
    place = torch.where(known[..., None], place, 1.0)
    # numbered without gaps: of fewer tokens than images the last numbers would be out of bounds
    image = consecutive(view.image_index, view.alive)[..., None].expand_as(place)
    widest = torch.zeros_like(place).scatter_reduce(1, image, -place, "amax").gather(1, image)
    count = (1 / (1 - widest).clamp(min=1e-6)).round()
    cell = ((place + 1) / 2 * count - 0.5).round().long()
    return torch.where(known[..., None], cell, -1)
