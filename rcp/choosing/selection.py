"""Turning scores into a choice of visual tokens: pure functions of tensors."""

import torch
from torch import Tensor

from rcp.choosing.relaxation import Relaxation

LOWEST = torch.finfo(torch.float32).min
SURE = 20.0
"""Its sigmoid is 1 in fp32."""

BISECTIONS = 30
STEEPEST = 1e-6


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


def soft_top_k(scores: Tensor, alive: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Shares of the alive tokens that add up to ``counts`` (B,), or to all of them: (B, N) fp32.

    Each is sigmoid((scores - t) / temperature), with the t of its row that makes the sum; the
    gradient knows that t moves with the scores. Soft Top-K [note, arXiv 2603.07135 and 2605.28051;
    how t is found: ours]. Dead slots are exactly 0.
    """
    scores = scores.float() / temperature
    wanted = torch.minimum(counts.to(scores.device), alive.sum(1))[:, None].float()
    with torch.no_grad():
        high = torch.where(alive, scores, -torch.inf).amax(1, keepdim=True) + SURE
        low = torch.where(alive, scores, torch.inf).amin(1, keepdim=True) - SURE
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = (torch.sigmoid(scores - middle) * alive).sum(1, keepdim=True) > wanted
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        level = torch.nan_to_num((low + high) / 2, nan=0.0)
    shares = torch.sigmoid(scores - level) * alive
    # one step of Newton's, whose value is next to nothing and whose gradient is that of the level
    slope = (shares * (1 - shares)).sum(1, keepdim=True).detach().clamp(min=STEEPEST)
    level = level + (shares.sum(1, keepdim=True) - wanted) / slope
    return torch.sigmoid(scores - level) * alive


def straight_through(
    scores: Tensor, keep: Tensor, alive: Tensor, relaxation: Relaxation, *, centred: bool
) -> Tensor:
    """Hard ``keep`` in value, the :func:`retention` in gradient: (B, N) fp32.

    Dead slots are exactly 0 and pass no gradient.
    """
    gate = retention(scores, keep, alive, relaxation, centred=centred)
    return keep.to(gate.dtype) + (gate - gate.detach())
