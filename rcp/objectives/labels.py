"""From a teacher's attention to the scores a pruner should give: pure functions of tensors."""

from typing import Literal

import torch
from torch import Tensor

from rcp.choosing.selection import cut, top_k

LabelForm = Literal["log", "rank", "share"]

LEAST = 1e-8
"""Attention below this is as good as none; its logarithm would dominate a sample."""


def attention_labels(
    attention: Tensor, alive: Tensor, counts: Tensor, form: LabelForm = "log"
) -> Tensor:
    """Standardised scores (B, N) fp32 whose ``counts`` (B,) best alive tokens are above zero.

    ``attention`` (B, N) is what each visual token receives, in any unit; ``alive`` (B, N) bool. The
    share of a sample's attention, its logarithm, or its rank is divided by its spread within the
    sample, and zero lies at the cut, where threshold mode and a sigmoid have it: so attention
    sinks do not dominate, and all samples weigh alike. [ours]
    """
    share = attention.float() * alive
    share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
    if form == "log":
        values = share.clamp(min=LEAST).log()
    elif form == "rank":
        order = share.masked_fill(~alive, -1).argsort(dim=1, stable=True)
        values = order.argsort(dim=1).float()
    else:
        values = share
    number = alive.sum(1, keepdim=True).clamp(min=1)
    mean = (values * alive).sum(1, keepdim=True) / number
    spread = ((values - mean).square() * alive).sum(1, keepdim=True).div(number).sqrt()
    level = cut(values, top_k(values, alive, counts), alive)
    return (values - level) / spread.clamp(min=1e-6) * alive


def relevance_labels(relevance: Tensor, alive: Tensor) -> Tensor:
    """Shares (B, N) fp32 of the squared ``relevance`` (B, N) among the ``alive`` (B, N) bool.

    Squared, because the many tokens that matter a little together outweigh the few that must
    stay. A row without relevance is zero. [ours]
    """
    squared = (relevance / relevance.amax(1, keepdim=True).clamp(min=LEAST)).square() * alive
    return squared / squared.sum(1, keepdim=True).clamp(min=LEAST)


def sinks(attention: Tensor, alive: Tensor, multiple: float) -> Tensor:
    """Alive tokens that receive more than ``multiple`` times the mean attention, (B, N) bool."""
    mean = (attention * alive).sum(1, keepdim=True) / alive.sum(1, keepdim=True).clamp(min=1)
    return alive & (attention > multiple * mean)
