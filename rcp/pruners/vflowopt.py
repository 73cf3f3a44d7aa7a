"""VFlowOpt: the vision tower's own attention and busy patches, dropped ones recycled by cell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.choosing.merging import cluster_mean, unmerged
from rcp.choosing.schedule import Published
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.pruners.feather import cells
from rcp.typed_values import check_range

DEPTH = 28
LAYERS = (0, 9, 18)


class VFlowOptPruner(Pruner):
    """Attention of the most attended patches, plus entropy; cells recycled (VFlowOpt's code).

    A token's importance is the attention that it gets in the vision tower, mean over those patches
    that get more than ``threshold`` times the mean themselves, plus ``alpha`` times the softmax
    over its image's patches of their grey levels' entropy. The first stage merges what it drops,
    one token for each ``cell`` x ``cell`` patches: the mean weighted by importance, in the slot of
    the strongest member. Later stages drop by the same importance, and merge nothing. (ICCV 2025)

    Published with what `python -m rcp search-schedule` seeks; the defaults are found at 10 % of
    LLaVA-OneVision-7B's tokens. Ours: every patch counts where none is attended to as much; the
    side of a cell, which our source does not tell; at most half of what stays is merged tokens,
    those of the strongest cells; cells within the image as its tokens have places, which for tiled
    images is the whole, and those without a place are a cell of their own.
    """

    name = "vflowopt"
    paper = "arXiv 2508.05211"
    needs = frozenset({"encoder_attention", "encoder_attended", "patch_entropy"})
    reads_question = False
    published = tuple(
        Published(f"LLaVA-OneVision-7B, {share} % of the tokens", DEPTH, LAYERS, ratios)
        for share, ratios in (
            (10, (0.1166, 0.1166, 0.1166 * 0.6011)),
            (25, (0.265, 0.265 * 0.983, 0.265 * 0.983 * 0.877)),
            (50, (0.723, 0.723 * 0.749, 0.723 * 0.749 * 0.487)),
        )
    )

    def __init__(
        self,
        hidden_size: int,
        *,
        threshold: float = 39.26,
        alpha: float = 17.39,
        cell: int = 6,
    ) -> None:
        super().__init__(hidden_size)
        check_range("threshold", threshold, 0)
        check_range("alpha", alpha, 0)
        check_range("cell", cell, 1, 2**16)
        self.threshold = threshold
        self.alpha = alpha
        self.cell = cell

    def forward(self, view: View) -> Tensor:
        attention = _by_sender(view.given("encoder_attention")).double()
        senders = _by_sender(view.given("encoder_attended")) > self.threshold
        senders = torch.where(senders.any(2, keepdim=True), senders, True)
        mean = (attention * senders).sum(2) / senders.sum(2)
        return (mean + self.alpha * view.given("patch_entropy")).float()

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self._split(view, counts).kept

    def merge(self, view: View, keep: Tensor) -> Tensor | None:
        if view.stage > 0:
            return None
        counts = keep.sum(1)
        split = self._split(view, counts)
        guests = view.alive & ~keep & (split.together & split.centres[:, None]).any(2)
        weights = unmerged(keep, view.limit(counts))
        # an importance of nothing would be divided by
        importance = self(view).clamp(min=1e-30)
        return cluster_mean(weights, split.centres, guests, split.together.float(), importance)

    def _split(self, view: View, counts: Tensor) -> "_Split":
        importance, together = self(view), self._together(view)
        most = torch.div(counts, 2, rounding_mode="floor") * (view.stage == 0)
        groups = torch.minimum(_first_of(together, view.alive).sum(1), most)
        dominant = top_k(importance, view.alive, counts - groups)
        left = view.alive & ~dominant
        better = importance[:, None, :] > importance[:, :, None]
        equal = importance[:, None, :] == importance[:, :, None]
        before = better | (equal & torch.ones_like(equal).tril(-1))
        strongest = left & ~(before & together & left[:, None]).any(2)
        centres = top_k(importance, strongest, groups)
        # cells that lost nothing leave their slots to the next best
        filling = top_k(importance, left & ~centres, groups - centres.sum(1))
        return _Split(dominant | centres | filling, centres, together)

    def _together(self, view: View) -> Tensor:
        """Which tokens share a cell of one image: (B, N, N) bool."""
        place = torch.div(cells(view), self.cell, rounding_mode="floor")
        place = torch.cat([place, view.image_index[..., None]], dim=-1)
        return (place[:, :, None] == place[:, None]).all(-1)


@dataclass(frozen=True)
class _Split:
    """Tokens (B, N) bool by what becomes of them; ``together`` (B, N, N): in one cell."""

    kept: Tensor
    centres: Tensor
    together: Tensor


def _by_sender(facts: Tensor) -> Tensor:
    """``facts`` (B, N, M), also where a lone patch has left out M."""
    return facts if facts.dim() == 3 else facts.unsqueeze(2)


def _first_of(together: Tensor, alive: Tensor) -> Tensor:
    """The first token of each cell, (B, N) bool."""
    return alive & ~(together & alive[:, None]).tril(-1).any(2)
