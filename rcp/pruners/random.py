"""Control: random tokens."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range

NUMBERS = 2**17
"""More than the visual tokens of any sample; a power of two."""


class RandomPruner(Pruner):
    """Keeps a random subset, drawn by ``seed``, layer and the token's rank in its sample.

    Every sample meets the same draw, so that a choice does not depend on the batch around it;
    average over seeds. [ours]
    """

    name = "random"
    paper = "control"
    draws = True
    reads_question = False

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__(hidden_size)
        check_range("seed", seed, 0, 2**32 - 1)
        self.seed = seed

    def forward(self, view: View) -> Tensor:
        return draw(view.rank, self.seed, view.layer)


def draw(rank: Tensor, seed: int, layer: int) -> Tensor:
    """Uniform in [0, 1) for ``rank`` (B, N) long: (B, N) fp32.

    The same on every device and in every batch; again from the start after ``NUMBERS`` ranks.
    """
    return numbers(seed, layer, rank.device)[rank & (NUMBERS - 1)]


@lru_cache(maxsize=32)
def numbers(seed: int, layer: int, device: torch.device) -> Tensor:
    """What :func:`draw` gives, an integer hash of (seed, layer, rank): (``NUMBERS``,) fp32.

    Made once, on the host: an operation on a device costs more than what it does here.
    """
    value = np.arange(NUMBERS, dtype=np.int64) * 2654435761 + seed * 40503 + layer * 97
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 0x297A2D39)):
        value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
    return torch.from_numpy((value / 2**32).astype(np.float32)).to(device)
