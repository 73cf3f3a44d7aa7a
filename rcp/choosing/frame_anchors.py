"""Anchors of frames, which take in the other tokens by optimal transport."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rcp.choosing.greedy import normalised
from rcp.choosing.groups import listed_by_group, sizes
from rcp.choosing.merging import transport, unmerged
from rcp.choosing.positions import columns_of, take_rows


@dataclass(frozen=True)
class FrameAnchors:
    """Up to A anchors of each of F frames, and up to S guests, which are no anchors.

    ``anchors`` (B, F, A) and ``guests`` (B, F, S) long are slots, ``real`` and ``there`` bool say
    which of these exist. ``within`` (B, F, S, A) is the plan of guests to their frame's anchors;
    ``between`` (B, F, A, A) that of a frame's anchors, joined by their guests, to those of the
    first of its ``clip`` frames, zero of the first itself. All fp64, of rows that add up to 1.
    """

    clip: int
    anchors: Tensor
    real: Tensor
    guests: Tensor
    within: Tensor
    between: Tensor

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        frame: Tensor,
        anchors: Tensor,
        guests: Tensor,
        clip: int,
        epsilon: float,
    ) -> "FrameAnchors":
        """Transport at a cost of 1 - cosine of ``tokens`` (B, N, D).

        ``frame`` (B, N) long in [0, N) without gaps, ``anchors`` and ``guests`` (B, N) bool.
        """
        most = [sizes(frame, some).amax() for some in (anchors, guests)]
        last = torch.where(anchors, frame, 0).amax()
        a, s, f = torch.stack([*most, last]).tolist()
        slots, real = listed_by_group(frame, anchors, f + 1, max(a, 1))
        others, there = listed_by_group(frame, guests, f + 1, max(s, 1))
        own, theirs = _rows(tokens.double(), slots), _rows(tokens.double(), others)
        within = transport(_cost(theirs, own), there, real, epsilon)
        joined = (own + within.mT @ theirs) / (1 + within.sum(2))[..., None]
        number = torch.arange(f + 1, device=frame.device)
        first = number - number % clip
        between = transport(_cost(joined, joined[:, first]), real, real[:, first], epsilon)
        between = between * (number != first)[:, None, None]
        return cls(clip, slots, real, others, within, between)

    def novelty(self, tokens: int) -> Tensor:
        """Of the anchors among so many ``tokens``: 1 - the largest share that one anchor of the
        clip's first frame gets of it, and 1 in that frame itself; -1 elsewhere: (B, N) fp64."""
        found = 1 - self.between.amax(3).round(decimals=9)
        return self._by_slot(found, tokens, -1.0)

    def merged(self, keep: Tensor, most: int) -> Tensor:
        """Merge weights (B, most, N) fp32 where ``keep`` (B, N) stay, as of
        :mod:`rcp.choosing.merging`.

        An anchor becomes the mean of itself and its guests, by mass, then one of a clip's first
        frame the mean of itself and what arrives of later anchors that do not stay.
        """
        slots, exists = columns_of(keep, most)
        width = self.anchors.shape[2]
        rows = torch.arange(self.anchors[0].numel(), device=keep.device).view(-1, width)
        row = self._by_slot(rows.expand_as(self.anchors), keep.shape[1], -1).gather(1, slots)
        taken = take_rows(self._weights(keep).flatten(1, 2), row.clamp(min=0))
        anchor = (row >= 0) & exists
        return torch.where(anchor[..., None], taken, unmerged(keep, most))

    def _weights(self, keep: Tensor) -> Tensor:
        """What each anchor becomes: (B, F, A, N) fp32."""
        batch, frames, width = self.anchors.shape
        weights = torch.zeros(batch, frames, width, keep.shape[1], device=keep.device)
        mass = 1 + self.within.sum(2)[..., None]
        own, theirs = (self.real[..., None] / mass).float(), (self.within.mT / mass).float()
        weights.scatter_add_(3, self.anchors[..., None], own)
        guests = self.guests[:, :, None].expand_as(theirs)
        weights.scatter_add_(3, guests, theirs)
        stays = keep.gather(1, self.anchors.flatten(1)).view_as(self.real)
        leaving = (self.between * ~stays[..., None]).mT.float()
        arrived = self._of_clip(leaving @ weights)
        mass = 1 + self._of_clip(leaving.sum(3, keepdim=True))
        weights[:, :: self.clip] = (weights[:, :: self.clip] + arrived) / mass
        return weights

    def _of_clip(self, values: Tensor) -> Tensor:
        """``values`` (B, F, A, X) summed over the frames of each clip."""
        missing = -values.shape[1] % self.clip
        padded = functional.pad(values, (0, 0, 0, 0, 0, missing))
        return padded.unflatten(1, (-1, self.clip)).sum(2)

    def _by_slot(self, values: Tensor, tokens: int, nobody: float) -> Tensor:
        """``values`` (B, F, A) of the anchors at their slots, ``nobody`` elsewhere: (B, N)."""
        at = torch.where(self.real, self.anchors, tokens).flatten(1)  # a slot more, for the unreal
        whole = values.new_full((len(values), tokens + 1), nobody)
        return whole.scatter(1, at, values.flatten(1))[:, :tokens]


def _rows(tokens: Tensor, slots: Tensor) -> Tensor:
    """``tokens`` (B, N, D) at ``slots`` (B, F, X): (B, F, X, D)."""
    return take_rows(tokens, slots.flatten(1)).unflatten(1, slots.shape[1:])


def _cost(sources: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine of (..., I, D) to (..., J, D): (..., I, J) fp64."""
    return 1 - (normalised(sources) @ normalised(targets).mT).round_(decimals=9)
