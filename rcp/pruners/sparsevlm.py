"""SparseVLM: text that is about the image rates its tokens; what is dropped is recycled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.choosing.merging import cluster_mean, unmerged
from rcp.choosing.schedule import Published
from rcp.choosing.selection import top_k
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range

NEIGHBOURS = 5
"""Nearest tokens that make a token's density."""


class SparseVLMPruner(Pruner):
    """Attention of the question's raters; dropped tokens recycled in groups (a note on SparseVLM).

    Raters are the question tokens whose share of softmax(image · textᵀ), mean over the image, is
    no less than the mean: by embeddings as they enter the decoder. Their attention in the stage's
    own layer, mean over heads and raters, is the score. Of the tokens that would go, the best
    ``recycled`` share is grouped by density peaks (density: exp of minus the mean squared distance
    to the nearest five; centres: density times distance to the next denser token), one group for
    every ten, and each group goes on as the mean of its members.

    The groups count among the k slots here, where the paper adds them to its own number; at most
    half of k are groups. The paper's adaptive number of tokens, by the rank of the attention
    matrix, gives way to the schedule. [ours]
    """

    name = "sparsevlm"
    paper = "arXiv 2410.04417"
    needs = frozenset({"attention", "layer_input", "projected", "question_embeds"})
    published = tuple(
        Published(f"LLaVA-1.5-7B, {budget} tokens", 32, (2, 6, 15), tuple(n / 576 for n in kept))
        for budget, kept in (
            (192, (300, 200, 110)), (128, (303, 110, 36)), (64, (66, 30, 17))
        )
    )

    def __init__(self, hidden_size: int, *, recycled: float = 0.3) -> None:
        super().__init__(hidden_size)
        check_range("recycled", recycled, 0, 1)
        self.recycled = recycled

    def forward(self, view: View) -> Tensor:
        raters = self._raters(view)
        weights = view.blocks("attention")("question") * raters[:, None, :, None]
        rows = raters.sum(1, keepdim=True).clamp(min=1) * weights.shape[1]
        return total_attention(weights) / rows

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self._split(view, counts).kept

    def merge(self, view: View, keep: Tensor) -> Tensor:
        counts = keep.sum(1)
        split = self._split(view, counts)
        weights = unmerged(keep, view.limit(counts))
        return cluster_mean(weights, split.centres, split.guests, -split.distance)

    def _raters(self, view: View) -> Tensor:
        """Question tokens that are about the image, (B, Q) bool."""
        image, text = view.given("projected").double(), view.given("question_embeds").double()
        absent = ~view.question_valid
        shares = (image @ text.mT).masked_fill(absent[:, None], -1e30).softmax(-1)
        about = (shares * view.alive[..., None]).sum(1) / view.alive.sum(1, keepdim=True).clamp(1)
        mean = about.sum(1, keepdim=True) / view.question_valid.sum(1, keepdim=True).clamp(1)
        return (about >= mean - 1e-9) & view.question_valid

    def _split(self, view: View, counts: Tensor) -> "_Split":
        scores, alive = self(view), view.alive
        dropped = alive.sum(1) - counts
        recycled = (dropped * self.recycled).floor().long() + 1
        groups = torch.div(recycled, 10, rounding_mode="floor") + 1
        groups = torch.minimum(groups, torch.div(counts, 2, rounding_mode="floor"))
        groups = torch.where(dropped > 0, groups, 0)
        dominant = top_k(scores, alive, counts - groups)
        candidates = top_k(scores, alive & ~dominant, torch.maximum(recycled, groups))
        distance = _distances(view.given("layer_input"))
        centres = top_k(_peaks(distance, candidates), candidates, groups)
        return _Split(dominant | centres, centres, candidates & ~centres, distance)


@dataclass(frozen=True)
class _Split:
    """Tokens (B, N) bool by what becomes of them; ``distance`` (B, N, N) fp64."""

    kept: Tensor
    centres: Tensor
    guests: Tensor
    distance: Tensor


def _distances(tokens: Tensor) -> Tensor:
    """Squared distances of ``tokens`` (B, N, D) over D: (B, N, N) fp64, rounded so that equal
    tokens tie whatever the shape of the product."""
    tokens = tokens.double()
    square = tokens.square().sum(-1)
    product = tokens @ tokens.mT
    squared = square[:, :, None] + square[:, None, :] - 2 * product
    return (squared / tokens.shape[-1]).clamp(min=0).mul(1e9).round().div(1e9)


def _peaks(distance: Tensor, candidates: Tensor) -> Tensor:
    """Density times distance to the next denser of the ``candidates`` (B, N): (B, N) fp64."""
    among = distance.masked_fill(~candidates[:, None, :], torch.inf)
    nearest = among.topk(min(NEIGHBOURS, among.shape[2]), largest=False, sorted=True).values
    found = nearest.isfinite()
    mean = torch.where(found, nearest, 0).sum(2) / found.sum(2).clamp(min=1)
    density = (-mean).exp()
    denser = (density[:, None, :] > density[:, :, None]) & candidates[:, None, :]
    to_denser = distance.masked_fill(~denser, torch.inf).amin(2)
    farthest = distance.masked_fill(~candidates[:, None, :], 0).amax(2)
    gap = torch.where(denser.any(2), to_denser, farthest)
    return density * gap.sqrt()
