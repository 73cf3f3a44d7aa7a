"""What the decoder gives its layers beside hidden states, for the rows that are left."""

from typing import Any

from torch import Tensor

from rcp.attaching.forwards.columns import Columns
from rcp.attaching.forwards.repacking import Repacking
from rcp.attaching.forwards.survivors import Survivors
from rcp.backbones import Backbone
from rcp.backbones.base import Rope
from rcp.choosing.tokens import TokenMap


class LayerInputs:
    """``rows``: those left, changed by :meth:`leave` alone. The rotary embeddings of these rows,
    ``additions`` (B, T, D), one for each of the first layers, to add to its output, and
    ``repacking``, under the position policy "repack", are set by :meth:`take_over`."""

    def __init__(self, backbone: Backbone, columns: Tensor, repack: bool) -> None:
        self.backbone = backbone
        self.repack = repack
        self.rows = Columns(columns)
        self.additions: list[Tensor] = []
        self.repacking: Repacking | None = None
        self._ropes: dict[int, tuple[Rope, Rope]] = {}  # as handed over, and of the rows left

    def take_over(
        self, arguments: dict[str, Any], start: int = 0, shift: Tensor | None = None
    ) -> dict[str, Any]:
        """Take over what depends on rows that may be gone: what the decoder would add between
        layers and, to ``repack``, the positions, from column ``start`` on and moved by ``shift``
        (B, 1) already."""
        arguments, self.additions = self.backbone.take_additions(arguments)
        if self.repack:
            self.repacking = Repacking(self.backbone, shift)
            arguments = self.repacking.enter(arguments, start)
        return arguments

    def leave(self, rows: Columns) -> None:
        """Go on with ``rows`` alone."""
        self.rows = rows
        self._ropes.clear()

    def close_gaps(self, hidden: Tensor, tokens: TokenMap, survivors: Survivors) -> None:
        """Number the ``survivors`` of the valid ``tokens`` anew, if policy says so."""
        if self.repacking is not None:
            self.repacking.close(hidden, tokens.valid, survivors.columns)
            self._ropes.clear()

    def rope(self, arguments: dict[str, Any]) -> Rope:
        """(cos, sin) of the rows left, given a layer's ``arguments``: gathered once a stage."""
        handed = arguments["position_embeddings"]
        if self.rows.index is None and self.repacking is None:
            return handed
        if id(handed) not in self._ropes:
            own = handed if self.repacking is None else self.repacking.rope(handed)
            # `handed` held, or its id could be given to another
            self._ropes[id(handed)] = handed, self.rows.take_rope(own)
        return self._ropes[id(handed)][1]

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """``hidden`` (B, R, D), a layer's output, with what the decoder would have added to it."""
        if layer >= len(self.additions):
            return hidden
        return hidden + self.rows.take(self.additions[layer].to(hidden.device))
