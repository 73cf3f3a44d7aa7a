"""What processes tell each other: sums through which gradients flow, and whether any wants it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """Forward: sum over ranks. Backward: the same, as every rank's loss reads the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum of ``value`` over the ranks of the default process group, differentiable.

    The backward pass sums too: with W ranks each parameter receives W times its share of the
    gradient, which the mean over ranks of data-parallel training turns into the exact gradient.
    """
    return _AllReduceSum.apply(value)


def any_process(value: bool, device: torch.device) -> bool:
    """Whether ``value`` is true in any of the processes, all of which must call this together."""
    found = torch.tensor(int(value), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())


def is_distributed() -> bool:
    """Whether more than one process trains together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
