"""How much memory of a GPU is in use, whoever uses it: what runtime and allocator add included."""

import threading
from collections.abc import Callable
from types import TracebackType

import torch

PAUSE = 0.1
"""Seconds between two looks."""


def used_bytes() -> int | None:
    """Bytes in use on the first GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return total - free


class DeviceUsage:
    """``peak``: bytes that came to be in use inside the ``with`` block, at most.

    Sampled from this process while others work; what was in use before does not count. None where
    ``read`` has nothing to tell.
    """

    def __init__(self, read: Callable[[], int | None] = used_bytes) -> None:
        self.read = read
        self.peak: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "DeviceUsage":
        self._before = self.read()
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(PAUSE):
            now = self.read()
            if now is not None and self._before is not None:
                self.peak = max(self.peak or 0, now - self._before)
