"""A share of the budget for questions that nobody has asked yet."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from rcp.choosing.view import View
from rcp.pruners.base import PRUNERS, Pruner
from rcp.typed_values import check_arguments, check_range


class ReservePruner(Pruner):
    """Another method on a part of the budget; the rest is chosen blind to the question.

    In a conversation the first question prunes for all that follow it. Of the tokens a stage
    keeps, the share ``share``, rounded, is therefore chosen by ``for_later``, a method that does
    not look at the question and takes no arguments, and the others, of those that are left, by
    ``method``, built with ``arguments``. It is trained as ``method`` alone. [ours]
    """

    name = "reserve"
    paper = "ours"
    wraps = True

    def __init__(
        self,
        hidden_size: int,
        *,
        share: float = 0.5,
        for_later: str = "uniform",
        method: str = "question_attention",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(hidden_size)
        check_range("share", share, 0, 1)
        check_arguments(PRUNERS.get(for_later), {})
        check_arguments(PRUNERS.get(method), arguments or {})
        self.share = share
        self.for_later: Pruner = PRUNERS.get(for_later)(hidden_size)
        self.inner: Pruner = PRUNERS.get(method)(hidden_size, **arguments or {})
        self.needs = self.needs | self.for_later.needs | self.inner.needs
        self.uses = self.uses | self.for_later.uses | self.inner.uses

    def forward(self, view: View) -> Tensor:
        return self.inner(view)

    def select(self, view: View, counts: Tensor) -> Tensor:
        blind = (counts * self.share).round().long()
        most = None if view.most is None else round(view.most * self.share)
        each = None if view.each is None else most
        kept = self.for_later.select(replace(view, most=most, each=each), blind)
        rest = None if view.most is None or most is None else view.most - most
        left = replace(view, alive=view.alive & ~kept, whole=False, most=rest, each=None)
        return kept | self.inner.select(left, counts - blind)

    def merge(self, view: View, keep: Tensor) -> Tensor | None:
        return self.inner.merge(view, keep)
