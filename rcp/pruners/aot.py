"""AOT: the anchors of a frame take in the rest of it, those of a clip's first frame later ones."""

import torch
from torch import Tensor

from rcp.choosing.frame_anchors import FrameAnchors
from rcp.choosing.greedy import normalised
from rcp.choosing.groups import consecutive, place_in_group, sizes
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class AOTPruner(Pruner):
    """Anchors of frames take in the rest, by optimal transport (a note on AOT, CVPR 2026).

    Half of a frame's anchors are its best by [CLS] attention, half the best of each of its
    ``windows`` x ``windows`` windows. Its other tokens are transported to them at a cost of 1 -
    cosine, and an anchor becomes the mean of itself and what arrives, by mass. Of every ``clip``
    frames the anchors of the first stay. Those of later frames are transported to these; the ones
    of which no anchor gets a large share stay as new tokens, the others are merged into the first.

    Ours: the windows go by the same attention, where the note has an early layer's; without a
    [CLS] how unlike the sum of its frame a token is stands in for it. Each token has a mass of 1
    and anchors get equal shares, as with a total of 1 they would hardly move; ``epsilon`` is not
    published. Nor is the share above which an anchor is merged: so many stay that exactly k do.
    ``fresh`` is how many of the later frames' anchors that are, which settles the number of anchors
    in a frame, in proportion to its tokens. Costs are those of projected tokens. A stage waits for
    the device, twice: how many frames there are and how large they are shapes the transport.
    """

    name = "aot"
    paper = "arXiv 2603.01400"
    needs = frozenset({"projected", "frame_index"})
    uses = frozenset({"vision_cls_attention"})
    reads_question = False

    def __init__(
        self,
        hidden_size: int,
        *,
        clip: int = 8,
        fresh: float = 0.5,
        windows: int = 4,
        epsilon: float = 0.1,
    ) -> None:
        super().__init__(hidden_size)
        check_range("clip", clip, 1, 2**16)
        check_range("fresh", fresh, 0, 1)
        check_range("windows", windows, 1, 2**8)
        check_range("epsilon", epsilon, 0.01)
        self.clip = clip
        self.fresh = fresh
        self.windows = windows
        self.epsilon = epsilon

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive = view.alive
        frame = consecutive(view.given("frame_index"), alive)
        salience = self._salience(view, frame)
        anchors = self.anchors(view, frame, salience, counts)
        found = self._transported(view, frame, anchors, alive & ~anchors)
        first = anchors & (frame % self.clip == 0)
        place = place_in_group(torch.zeros_like(frame), first, salience).double()
        stays = 3 - place / alive.shape[1]  # before any later one, and by salience if cut
        worth = torch.where(first, stays, found.novelty(alive.shape[1]))
        return top_k(worth, alive, counts)

    def merge(self, view: View, keep: Tensor) -> Tensor:
        alive, counts = view.alive, keep.sum(1)
        frame = consecutive(view.given("frame_index"), alive)
        anchors = self.anchors(view, frame, self._salience(view, frame), counts)
        found = self._transported(view, frame, anchors, alive & ~anchors & ~keep)
        return found.merged(keep, view.limit(counts))

    def anchors(self, view: View, frame: Tensor, salience: Tensor, counts: Tensor) -> Tensor:
        """The anchors of each ``frame`` (B, N), of ``counts`` (B,) tokens that stay in all: (B, N)
        bool; ``salience`` (B, N)."""
        alive = view.alive
        firsts = (alive & (frame % self.clip == 0)).sum(1)
        later = alive.sum(1) - firsts
        share = counts / (firsts + self.fresh * later.double()).clamp(min=1)
        # a hair below, so that an exact share is not raised by rounding
        quota = (share[:, None] * sizes(frame, alive) - 1e-9).ceil()
        local = torch.div(quota, 2, rounding_mode="floor")
        best = alive & (place_in_group(frame, alive, salience) < quota - local)
        rest = alive & ~best
        turn = place_in_group(frame * (self.windows**2 + 1) + self._window(view), rest, salience)
        return best | (rest & (place_in_group(frame, rest, -turn, salience) < local))

    def _window(self, view: View) -> Tensor:
        """The window of each token's frame that it lies in; the last one without a place."""
        place = ((view.grid.float() + 1) / 2 * self.windows).floor()
        row, column = place.nan_to_num().long().clamp(0, self.windows - 1).unbind(-1)
        return torch.where(place.isnan().any(-1), self.windows**2, row * self.windows + column)

    def _salience(self, view: View, frame: Tensor) -> Tensor:
        if view.vision_cls_attention is not None:
            return view.vision_cls_attention
        tokens = view.given("projected").double() * view.alive[..., None]
        of_frame = frame[..., None].expand_as(tokens)
        total = torch.zeros_like(tokens).scatter_add(1, of_frame, tokens).gather(1, of_frame)
        return -(normalised(tokens) * normalised(total)).sum(-1).round(decimals=9)

    def _transported(
        self, view: View, frame: Tensor, anchors: Tensor, guests: Tensor
    ) -> FrameAnchors:
        tokens = view.given("projected")
        return FrameAnchors.of(tokens, frame, anchors, guests, self.clip, self.epsilon)
