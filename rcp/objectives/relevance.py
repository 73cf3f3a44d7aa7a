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
