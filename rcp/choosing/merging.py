"""Folding dropped tokens into kept ones: weights (B, K, N), one row for each kept slot.

A merged token lives in the slot and at the position of one of its members. Row i of the weights
belongs to the i-th kept slot in raster order; rows past a sample's own count are zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.choosing.positions import columns_of, take_rows
from rcp.choosing.selection import top_k

NOTHING = 1e-300
"""In place of a mass of zero, which is divided by where there is nobody."""


def unmerged(keep: Tensor, most: int) -> Tensor:
    """Weights that leave every kept token as it is: (B, most, N) fp32."""
    slots, real = columns_of(keep, most)
    weights = torch.zeros(*slots.shape, keep.shape[1], device=keep.device)
    return weights.scatter(2, slots[..., None], real[..., None].float())


def weighted_sum(weights: Tensor, carrier: Tensor, coefficients: Tensor) -> Tensor:
    """``weights`` (B, K, N) with the row of the slot ``carrier`` (B, 1) replaced by
    ``coefficients`` (B, N)."""
    own = weights.gather(2, carrier[:, None].expand(-1, weights.shape[1], 1)) > 0
    return torch.where(own, coefficients[:, None].to(weights), weights)


def nearest_mean(weights: Tensor, targets: Tensor, guests: Tensor, likeness: Tensor) -> Tensor:
    """Every guest joins the target it is most like; a target becomes itself + their mean.

    ``weights`` (B, K, N) as :func:`unmerged` gives them; ``targets``, ``guests`` (B, N) bool,
    targets kept; ``likeness`` (B, N, N). A sample without targets has no guests joining.
    """
    members = _members(targets, guests, likeness).to(weights.dtype)
    members = members / members.sum(2, keepdim=True).clamp(min=1)
    return weights + weights @ members


def cluster_mean(
    weights: Tensor,
    targets: Tensor,
    guests: Tensor,
    likeness: Tensor,
    importance: Tensor | None = None,
) -> Tensor:
    """As :func:`nearest_mean`, but a target becomes the mean of itself and its guests.

    With ``importance`` (B, N), positive, each counts by it.
    """
    members = _members(targets, guests, likeness).to(weights.dtype)
    members = members + torch.eye(members.shape[2], device=members.device)
    if importance is not None:
        members = members * importance[:, None].to(members)
    return weights @ (members / members.sum(2, keepdim=True))


def _members(targets: Tensor, guests: Tensor, likeness: Tensor) -> Tensor:
    """Which guest joins which target: (B, target, guest) bool."""
    among = likeness.masked_fill(~targets[:, None, :], -torch.inf)
    host = among.argmax(2)  # (B, N) the target of each token
    joining = guests & targets.any(1, keepdim=True)
    nobody = torch.zeros_like(likeness, dtype=torch.bool)
    return nobody.scatter(1, host[:, None], joining[:, None])


def transport(
    cost: Tensor, sources: Tensor, targets: Tensor, epsilon: float, iterations: int = 100
) -> Tensor:
    """Entropic optimal transport, by Sinkhorn's iterations: the plan (..., I, J) fp64.

    ``cost`` (..., I, J) fp64 in [0, 2]; ``sources`` (..., I) and ``targets`` (..., J) bool say who
    exists. Every source sends a mass of 1, exactly; targets get equal shares, as nearly as the
    iterations bring it about. Zero where there is nobody. Scaled without logarithms, which an
    ``epsilon`` of 0.01 or more allows: no factor is below e^-200.
    """
    kernel = torch.exp(-cost / epsilon) * (sources[..., None] & targets[..., None, :])
    sent, shares = sources[..., None].to(kernel), targets[..., None].to(kernel)
    got = shares * (sent.sum(-2, keepdim=True) / shares.sum(-2, keepdim=True).clamp(min=1))
    of_target = shares
    for _ in range(iterations):
        of_source = sent / (kernel @ of_target).clamp(min=NOTHING)
        of_target = got / (kernel.mT @ of_source).clamp(min=NOTHING)
    of_source = sent / (kernel @ of_target).clamp(min=NOTHING)
    return of_source * kernel * of_target.mT


def merge_rows(hidden: Tensor, rows: Tensor, keep: Tensor, weights: Tensor) -> Tensor:
    """Put the merged tokens into ``hidden`` (B, R, D) at the rows of the kept slots.

    ``rows`` (B, N) long says which row each slot is, ``keep`` (B, N) which slots stay,
    ``weights`` (B, K, N).
    """
    slots, real = columns_of(keep, weights.shape[1])
    tokens = take_rows(hidden, rows).float()
    merged = (weights.to(tokens) @ tokens).to(hidden.dtype)
    # a filler repeats what the first slot writes: two writers of one row must agree
    at = rows.gather(1, torch.where(real, slots, slots[:, :1]))
    merged = torch.where(real[..., None], merged, merged[:, :1])
    merged = torch.where(real[:, :1, None], merged, take_rows(hidden, at))
    return hidden.scatter(1, at[..., None].expand_as(merged), merged)


@dataclass(frozen=True)
class Contextual:
    """Tokens split by VisionDrop's rule (arXiv 2506.22283 [code]): ``dominant`` and ``targets``
    (B, N) bool; the others join targets."""

    dominant: Tensor
    targets: Tensor

    @property
    def kept(self) -> Tensor:
        return self.dominant | self.targets

    @classmethod
    def of(cls, scores: Tensor, alive: Tensor, counts: Tensor, share: float) -> "Contextual":
        """``counts`` (B,) tokens a sample, of which a ``share`` are targets.

        The others are the best by ``scores`` (B, N); targets are every n-th of what is left, in
        raster order.
        """
        targets = (counts * share).floor().long()
        dominant = top_k(scores, alive, counts - targets)
        rest = alive & ~dominant
        number = rest.long().cumsum(1) - 1
        step = torch.div(rest.sum(1), targets.clamp(min=1), rounding_mode="floor").clamp(min=1)
        turn = torch.div(number, step[:, None], rounding_mode="floor")
        chosen = rest & (number % step[:, None] == 0) & (turn < targets[:, None])
        return cls(dominant, chosen)
