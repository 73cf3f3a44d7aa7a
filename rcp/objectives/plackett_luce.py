"""Draws without replacement in proportion to exp(score): what they teach the scores."""

import torch
from torch import Tensor

from rcp.objectives.losses import Reduce, mean_over_samples

LOWEST = torch.finfo(torch.float32).min

SPREAD = 0.1
"""Nats: rewards that deviate by less count in proportion. Where every draw keeps what the answer
needs they differ by thousandths, which measured by themselves would teach as much as a lost one."""


def log_probability(scores: Tensor, drawn: Tensor, alive: Tensor) -> Tensor:
    """Logarithm of the probability that the tokens are drawn in this order, (B,) fp32.

    ``scores`` (B, N), with gradient; ``drawn`` (B, N): finite at the tokens drawn, the first of
    them the highest, -inf at all others; ``alive`` (B, N) bool: what could be drawn. With σ the
    order, Σ_i (s_σ(i) - log Σ exp(s) over the alive tokens not drawn before i). (Plackett, 1975.)
    What is not alive has probability 0, and passes no gradient.
    """
    order = drawn.argsort(dim=1, descending=True, stable=True)
    first = drawn.isfinite().gather(1, order)
    ranked = scores.float().masked_fill(~alive, LOWEST).gather(1, order)
    left = ranked.flip(1).logcumsumexp(1).flip(1)
    return torch.where(first, ranked - left, 0.0).sum(1)


def advantages(rewards: Tensor) -> Tensor:
    """``rewards`` (G, B) of G draws a sample, less their mean over G and by their deviation.

    By :data:`SPREAD` at least; zero where all draws of a sample earn the same.
    """
    centred = rewards - rewards.mean(0, keepdim=True)
    return centred / centred.square().mean(0, keepdim=True).sqrt().clamp(min=SPREAD)


def policy_loss(
    log_probabilities: Tensor, rewards: Tensor, counted: Tensor, *, reduce: Reduce | None = None
) -> Tensor:
    """REINFORCE with the group's mean as baseline: -advantage · log p, mean over draws and samples.

    ``log_probabilities`` and ``rewards`` (G, B); samples that are not ``counted`` (B,) bool are
    left out. 0-d fp32. (Williams, 1992; groups as in GRPO, arXiv 2402.03300.)
    """
    per_sample = -(advantages(rewards.detach()) * log_probabilities).mean(0)
    return mean_over_samples(per_sample[:, None], counted[:, None], reduce)
