"""HoloV: every region gets its share of the tokens."""

import torch
from torch import Tensor

from rcp.choosing.greedy import cosines
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class HoloVPruner(Pruner):
    """Shares the budget out to crops, then keeps the best of each (HoloV's code, NeurIPS 2025).

    The tokens are cut in sequence order into ``crops`` contiguous crops (16 for LLaVA: bands of
    rows). A token's score is its [CLS] attention x 1000 plus ``diversity`` times the variance of
    its cosines within the crop, scaled to the attention; a crop's score is the mean. Each crop
    gets the floor of its share, what is left goes to the best crops. Inside a crop the attention
    alone ranks, as in the code, or with ``combined`` the score, as in the paper [note].

    Ours: crops differ by one token where they do not divide the tokens; a crop gets no more
    than it has; cosines are those of projected tokens, which our source does not say.
    """

    name = "holov"
    paper = "arXiv 2510.02912"
    needs = frozenset({"vision_cls_attention", "projected"})
    reads_question = False

    def __init__(
        self,
        hidden_size: int,
        *,
        crops: int = 16,
        diversity: float = 0.09,
        combined: bool = False,
    ) -> None:
        super().__init__(hidden_size)
        check_range("crops", crops, 1, 2**16)
        self.crops = crops
        self.diversity = diversity
        self.combined = combined

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive = view.alive
        attention = 1000 * view.given("vision_cls_attention").double() * alive
        crop = self._crops(alive)
        variance = _variance(cosines(view.given("projected")), crop, alive)
        scale = attention.sum(1, keepdim=True) / variance.sum(1, keepdim=True).clamp(min=1e-9)
        score = attention + self.diversity * variance * scale
        worth = self._mean(score, crop, alive)
        size = self._sum(alive.double(), crop)
        share = counts[:, None] * worth / worth.sum(1, keepdim=True).clamp(min=1e-30)
        # a hair above, so that an exact share is not lost to rounding
        quota = torch.minimum((share + 1e-9).floor(), size).gather(1, crop)
        place = _place_in_crop(score if self.combined else attention, crop, alive)
        order = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1).gather(1, crop)
        # first what the quotas take, then the best crops' next tokens in turn, one a round
        turn = (place - quota) * self.crops + order
        return top_k(-torch.where(place < quota, -1.0, turn), alive, counts)

    def _crops(self, alive: Tensor) -> Tensor:
        """The crop of each token, (B, N) long in [0, crops)."""
        rank = alive.long().cumsum(1) - 1
        total = alive.sum(1, keepdim=True).clamp(min=1)
        crop = torch.div(rank * self.crops, total, rounding_mode="floor")
        return crop.clamp(0, self.crops - 1)

    def _sum(self, values: Tensor, crop: Tensor) -> Tensor:
        """Over the tokens of each crop: (B, N) → (B, crops)."""
        return values.new_zeros(len(crop), self.crops).scatter_add(1, crop, values)

    def _mean(self, values: Tensor, crop: Tensor, alive: Tensor) -> Tensor:
        total = self._sum(values * alive, crop)
        return (total / self._sum(alive.double(), crop).clamp(min=1) * 1e9).round() / 1e9


def _variance(cosine: Tensor, crop: Tensor, alive: Tensor) -> Tensor:
    """Variance of the cosines of a token to its crop's, its own counted as zero: (B, N) fp64."""
    together = (crop[:, :, None] == crop[:, None, :]) & alive[:, :, None] & alive[:, None, :]
    others = (together.sum(2) - 1).clamp(min=1)
    cosine = cosine * together
    cosine.diagonal(dim1=1, dim2=2).zero_()
    mean = cosine.sum(2) / others
    square = ((cosine - mean[:, :, None]) * together).square().sum(2)
    return (square / others * 1e9).round() / 1e9


def _place_in_crop(score: Tensor, crop: Tensor, alive: Tensor) -> Tensor:
    """How many tokens of its crop rank before each token, (B, N) fp64; dead ones count for none."""
    better = score[:, None, :] > score[:, :, None]
    earlier = torch.ones_like(better).tril(-1)
    before = better | ((score[:, None, :] == score[:, :, None]) & earlier)
    together = (crop[:, :, None] == crop[:, None, :]) & alive[:, None, :]
    return (before & together).sum(2).double()
