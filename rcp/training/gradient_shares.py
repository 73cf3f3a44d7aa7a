"""How much of the gradient each loss term contributes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_shares(
    terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """Norm of each weighted term's gradient over the sum of these norms, by name.

    Leaves the graph intact and ``.grad`` untouched; costs one backward pass a term. Frozen
    parameters have no part in it.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {
        name: _norm(term, learning) for name, term in terms.items() if term.requires_grad
    }
    if not norms:
        return {}  # nothing was pruned and nothing repaired
    total = torch.stack(list(norms.values())).sum().clamp(min=1e-20)
    return {name: norm / total for name, norm in norms.items()}


def _norm(term: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return torch.stack([g.float().norm() for g in gradients if g is not None]).norm()
