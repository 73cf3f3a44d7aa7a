"""Time of a prefill and of decode steps on a device, and the memory that they hold."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.cache_names import cache_in, cache_name
from rcp.attaching.given_images import encode_images


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Wall time from an idle device to an idle device."""
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return 1e3 * (time.perf_counter() - start)


@dataclass
class Times:
    """Milliseconds of each repetition, and bytes of the last: of the keys and values that a
    prefill ``cached``, and of the ``peak`` that torch had allocated, None on a CPU."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    cached: int = 0
    peak: int | None = None


class Stopwatch:
    """Runs ``model`` on one batch of ``inputs``, as ``generate`` does: one row of logits."""

    def __init__(self, model: Any, inputs: dict[str, Tensor], device: str, steps: int) -> None:
        self.model = model
        self.inputs = inputs
        self.device = device
        self.steps = steps

    @torch.no_grad()
    def prefill(self) -> Any:
        """The cache of a prefill."""
        return cache_in(self.model(**self.inputs, use_cache=True, logits_to_keep=1))

    @torch.no_grad()
    def decode(self, cache: Any) -> None:
        """One step."""
        token = self.inputs["input_ids"][:, -1:]
        self.model(input_ids=token, **{cache_name(self.model): cache})

    @torch.no_grad()
    def encode(self) -> float:
        """Milliseconds of the vision tower and projector."""
        return milliseconds(lambda: encode_images(self.model, self.inputs), self.device)

    def time(self, into: Times) -> None:
        """One prefill and ``steps`` decode steps more."""
        cuda = self.device == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        held: list[Any] = []
        into.prefill.append(milliseconds(lambda: held.append(self.prefill()), self.device))
        (cache,) = held
        into.cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        for _ in range(self.steps):
            into.decode.append(milliseconds(lambda: self.decode(cache), self.device))
        into.peak = torch.cuda.max_memory_allocated() if cuda else None


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
