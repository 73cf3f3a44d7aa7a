"""EViT's fused token: what is dropped goes on as one."""

import torch
from torch import Tensor

from rcp.choosing.merging import unmerged, weighted_sum
from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class EViTPruner(Pruner):
    """Top-k by [CLS] attention, the rest fused into the last of them (EViT's code, ICLR 2022).

    The k-th token gives its slot and position to the sum of all tokens from it downwards, each
    times its attention, not renormalised. Published between the blocks of a vision transformer;
    before a decoder it is ours.
    """

    name = "evit"
    paper = "arXiv 2202.07800"
    needs = frozenset({"vision_cls_attention"})
    reads_question = False

    def forward(self, view: View) -> Tensor:
        return view.given("vision_cls_attention")

    def merge(self, view: View, keep: Tensor) -> Tensor:
        attention = view.given("vision_cls_attention")
        dropped = view.alive & ~keep
        # of equals the later one: top-k kept the earlier for itself
        lowest = attention.masked_fill(~keep, torch.inf).flip(1).argmin(1, keepdim=True)
        carrier = keep.shape[1] - 1 - lowest
        fused = (attention * dropped).scatter_add(1, carrier, attention.gather(1, carrier))
        alone = torch.zeros_like(fused).scatter(1, carrier, 1.0)
        fused = torch.where(dropped.any(1, keepdim=True), fused, alone)
        return weighted_sum(unmerged(keep, view.limit(keep.sum(1))), carrier, fused)
