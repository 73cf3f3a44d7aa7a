"""What wrappers share: a method that sees attention corrected by a factor for each token."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rcp.choosing.view import AttentionBlocks, RowSet, View
from rcp.errors import UserError
from rcp.pruners.base import PRUNERS, Pruner
from rcp.typed_values import check_arguments

BLOCKS = frozenset({"attention", "attention_before"})
ATTENTION = BLOCKS | {"question_attention", "full_attention"}


@dataclass(frozen=True)
class Reweighted:
    """:class:`rcp.choosing.view.AttentionBlocks` with the visual columns times ``factor``
    (B, N)."""

    blocks: AttentionBlocks
    factor: Tensor

    def __call__(
        self,
        queries: RowSet,
        keys: RowSet = "visual",
        *,
        rotary: bool = True,
        among_visual: bool = False,
    ) -> Tensor:
        weights = self.blocks(queries, keys, rotary=rotary, among_visual=among_visual)
        return weights * self.factor[:, None, None] if keys == "visual" else weights

    @property
    def visual_keys(self) -> Tensor:
        return self.blocks.visual_keys


class ReweightingPruner(Pruner):
    """Another method, named by ``method`` and built with its ``arguments``, that is shown
    attention times :meth:`factor`. Works with any method that reads attention, and nests; raises
    ``UserError`` for one that does not."""

    wraps = True

    def __init__(
        self, hidden_size: int, *, method: str, arguments: dict[str, Any] | None = None
    ) -> None:
        super().__init__(hidden_size)
        check_arguments(PRUNERS.get(method), arguments or {})
        self.inner: Pruner = PRUNERS.get(method)(hidden_size, **arguments or {})
        if not self.inner.needs & ATTENTION:
            raise UserError(
                f"'{self.name}' corrects attention, and the pruner '{method}' reads none. Wrap one "
                f"that needs one of {', '.join(sorted(ATTENTION))}."
            )
        self.needs = self.needs | self.inner.needs
        self.uses = self.uses | self.inner.uses

    def factor(self, view: View) -> Tensor:
        """What the attention to each visual token is multiplied by, (B, N) fp32, not negative."""
        raise TypeError(f"{type(self).__name__} must override factor()")

    @property
    def ranks(self) -> bool:
        return self.inner.ranks

    def forward(self, view: View) -> Tensor:
        return self.inner(self._corrected(view))

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self.inner.select(self._corrected(view), counts)

    def merge(self, view: View, keep: Tensor) -> Tensor | None:
        return self.inner.merge(self._corrected(view), keep)

    def _corrected(self, view: View) -> View:
        factor = self.factor(view)
        blocks = {name: getattr(view, name) for name in BLOCKS & self.inner.needs}
        changed: dict[str, Any] = {n: Reweighted(found, factor) for n, found in blocks.items()}
        if "question_attention" in self.inner.needs:
            changed["question_attention"] = view.given("question_attention") * factor
        if "full_attention" in self.inner.needs:
            changed["full_attention"] = view.given("full_attention") * factor[:, None]
        return replace(view, **changed)
