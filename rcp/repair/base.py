"""What every repair adapter is: it remembers what was dropped and corrects later rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rcp.registry import Registry

REPAIRS = Registry("repair adapter", "rcp.repair")


@dataclass(frozen=True)
class Dropping:
    """What one stage dropped, over all N slots a sample began with.

    ``alive`` (B, N) bool after the stage, ``exists`` (B, N) bool, ``grid`` (B, N, 2); ``sums``
    (B, S) fp32: what the adapter's :meth:`~RepairAdapter.summed` gave at this stage and those
    before, added up. ``pruned_each``: how many of each sample these are, and
    ``all_placed``: that every slot exists and has a place, where the host knows it.
    """

    alive: Tensor
    exists: Tensor
    grid: Tensor
    sums: Tensor
    pruned_each: int | None = None
    all_placed: bool = False

    @property
    def pruned_count(self) -> Tensor:
        """(B,) long: how many were dropped so far."""
        return (self.exists & ~self.alive).sum(1)

    def of_pruned_mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``function`` of the mean of the dropped tokens, (B, D) fp32; zero where none were.

        Where ``sums`` are of their rows.
        """
        if self.pruned_each is not None:
            value = function(self.sums / max(self.pruned_each, 1))
            # a product, so that a gradient of zero reaches what `function` learns
            return value if self.pruned_each else value * 0
        count = self.pruned_count[:, None]
        return function(self.sums / count.clamp(min=1)) * (count > 0)


@dataclass(frozen=True)
class Beside:
    """What is known of the tokens there were before a stage besides their rows.

    ``grid`` (B, n, 2): their places. ``facts`` by name, (B, n, F) each: what of the vision side an
    adapter has named in ``needs``.
    """

    grid: Tensor
    facts: Mapping[str, Tensor]


class RepairAdapter(nn.Module):
    """Corrects the rows that predict answer tokens, at each of ``layers``.

    A method sets ``name`` and overrides :meth:`remember` and :meth:`forward`. What it remembers
    is a tensor (B, C) per sample, nothing per token: it lives on the cache of a generation. One
    with ``remembers`` False looks at no dropped token, and is given (B, 0). ``needs`` names what of
    the vision side it looks at (:data:`rcp.backbones.tower.VISION_FACTS`).
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    remembers: bool = True

    def __init_subclass__(cls) -> None:
        if cls.name:
            REPAIRS.register(cls.name, cls)

    def __init__(self, hidden_size: int, layers: list[int]) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.layers = tuple(layers)

    def summed(self, normed: Tensor, gone: Tensor, beside: Beside | None = None) -> Tensor:
        """What of the tokens that a stage drops is added up over the stages: (B, S) fp32.

        ``normed`` (B, n, D): the normed rows before the stage, ``gone`` (B, n) bool: which of them
        it drops; ``beside`` is given where the adapter ``needs`` something. By default the sum of
        these rows, S = D.
        """
        return torch.where(gone[..., None], normed, 0).float().sum(1)

    def remember(self, dropping: Dropping) -> Tensor:
        """The context (B, C) a stage leaves for the repair layers after it."""
        raise TypeError(f"{type(self).__name__} must override remember()")

    def forward(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        """What to add to ``hidden`` (B, A, D), the outputs of ``layer`` on answer rows."""
        raise TypeError(f"{type(self).__name__} must override forward()")
