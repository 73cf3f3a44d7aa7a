"""Turning scores into a choice of visual tokens: pure functions of tensors."""

import torch
from torch import Tensor

from rcp.choosing.relaxation import Relaxation

LOWEST = torch.finfo(torch.float32).min


def top_k(scores: Tensor, alive: Tensor, counts: Tensor, each: int | None = None) -> Tensor:
    """Keep the ``counts`` (B,) best alive tokens of every row; ties go to the earlier token.

    ``scores`` (B, N) float, ``alive`` (B, N) bool → (B, N) bool with exactly
    ``min(counts, alive)`` marks a row, whatever the other rows hold. NaN scores rank last.
    ``each`` is given where the host knows that all tokens are alive and this is every count.
    """
    scores = torch.nan_to_num(scores.float(), nan=LOWEST, neginf=LOWEST)
    if each is not None:
        best = scores.sort(dim=1, descending=True, stable=True).indices[:, :each]
        return torch.zeros_like(alive).scatter(1, best, True)
    # below all floats that are left, so that one sort puts the dead behind everything
    order = scores.masked_fill(~alive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return alive.scatter(1, order, kept) & alive


def threshold(scores: Tensor, alive: Tensor) -> Tensor:
    """Keep the alive tokens whose score is positive: z > 0 (RCP [draft])."""
    return (scores > 0) & alive


def cut(scores: Tensor, keep: Tensor, alive: Tensor) -> Tensor:
    """Midpoint between the lowest kept and the highest dropped score, (B, 1), detached.

    Where a row keeps all or nothing the cut is the one extreme there is, so that the relaxed
    gate stays finite. [ours]
    """
    scores = scores.detach()
    lowest_kept = torch.where(keep, scores, torch.inf).amin(1, keepdim=True)
    highest_dropped = torch.where(alive & ~keep, scores, -torch.inf).amax(1, keepdim=True)
    lowest_kept = torch.where(lowest_kept.isinf(), highest_dropped, lowest_kept)
    highest_dropped = torch.where(highest_dropped.isinf(), lowest_kept, highest_dropped)
    return torch.nan_to_num((lowest_kept + highest_dropped) / 2, neginf=0.0, posinf=0.0)


def retention(
    scores: Tensor, keep: Tensor, alive: Tensor, relaxation: Relaxation, *, centred: bool
) -> Tensor:
    """Share of each token that is retained, sigmoid((scores - t) / τ): (B, N) fp32.

    CoViPAL stage 2 [note]. ``centred`` takes t from :func:`cut` (top-k and calibrated mode [ours]):
    a guide that teaches an order leaves the scores' level open, and t = 0 would retain nearly all
    or nothing. Otherwise t = 0, where threshold mode cuts [draft]. Dead slots are exactly 0.
    """
    offset = cut(scores, keep, alive) if centred else 0.0
    return torch.sigmoid((scores.float() - offset) / relaxation.temperature) * alive


def straight_through(
    scores: Tensor, keep: Tensor, alive: Tensor, relaxation: Relaxation, *, centred: bool
) -> Tensor:
    """Hard ``keep`` in value, the :func:`retention` in gradient: (B, N) fp32.

    Dead slots are exactly 0 and pass no gradient.
    """
    gate = retention(scores, keep, alive, relaxation, centred=centred)
    return keep.to(gate.dtype) + (gate - gate.detach())
