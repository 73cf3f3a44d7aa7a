"""The noise gate: what a token lacks of being kept, it has of noise, while pruners are trained.

A straight-through gradient at a small budget points nowhere: it says what a token that is gone
would do, where all others are gone, too. Here every token reaches the decoder, with less of itself
the less it is kept, and so each tells what it is worth.
"""

import torch
from torch import Tensor


def mixed_with_noise(rows: Tensor, shares: Tensor, alive: Tensor) -> Tensor:
    """sqrt(a) x + sqrt(1 - a) noise for ``rows`` (B, N, D), a being ``shares`` (B, N) fp32.

    AutoSelect and DiffPrune [note, arXiv 2603.07135 and 2605.28051]. Both are taken from the mean
    of the tokens ``alive`` (B, N) of a sample, and the noise is normal with the deviation that each
    feature has over them: what is all noise looks like any of them [ours]. (B, N, D) fp32.
    """
    shares = shares.to(rows.device)[..., None]
    alive = alive.to(rows.device)[..., None]
    rows = rows.float()
    known = rows.detach()
    count = alive.sum(1, keepdim=True).clamp(min=1)
    mean = (known * alive).sum(1, keepdim=True) / count
    deviation = (((known - mean) * alive).square().sum(1, keepdim=True) / count).sqrt()
    noise = torch.randn_like(known) * deviation
    return mean + (rows - mean) * _root(shares) + noise * _root(1 - shares)


def _root(share: Tensor) -> Tensor:
    """A square root whose slope at 0 is finite."""
    return share.clamp(min=0).add(1e-6).sqrt()
