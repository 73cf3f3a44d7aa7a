"""How many operations a forward is: a GPU pays them one by one where launching is what limits."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = frozenset(
    "view _unsafe_view transpose permute expand slice select unsqueeze squeeze t detach alias "
    "as_strided reshape split unbind _reshape_alias unflatten diagonal split_with_sizes "
    "lift_fresh is_same_size movedim".split()
)
"""Operations that compute nothing."""

COUNTED = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
    "copies": ("cudaMemcpy",),
    "synchronisations": ("cudaStreamSynchronize", "cudaDeviceSynchronize"),
}
"""Beginnings of what the profiler calls them."""


class _Dispatched(TorchDispatchMode):
    """Counts operations that compute something; the same number on every device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], object]) -> int:
    """aten operations that ``work`` dispatches, views not counted."""
    with _Dispatched() as dispatched:
        work()
    return dispatched.count


def launched(work: Callable[[], object]) -> dict[str, int]:
    """What ``work`` asks of CUDA: kernel launches, copies and synchronisations."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    events = profile.key_averages()
    return {
        name: sum(event.count for event in events if event.key.startswith(beginnings))
        for name, beginnings in COUNTED.items()
    }
