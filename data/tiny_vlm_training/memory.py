"""Keep freed memory in the process, instead of returning it to the system at every step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # glibc's mallopt parameters


def keep_freed_memory() -> None:
    """Stop glibc from mapping and unmapping every large buffer; elsewhere do nothing.

    A training step on a CPU frees and takes the same buffers again and again. By default each of
    them is given back and faulted in anew, which was seen to cost four fifths of the time. Call it
    before the first tensor is made. One arena, because only the main one can grow without mapping.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1),
                             (_TOP_PAD, 2**28), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
