"""Blocks of one layer's attention, computed from the layer's own modules when a method asks."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from rcp.attaching.forwards.place import Place
from rcp.attaching.masks import not_causal, take_mask_rows
from rcp.backbones import Backbone
from rcp.backbones.base import Rope
from rcp.choosing.positions import Positions
from rcp.choosing.view import RowSet


@dataclass(frozen=True)
class LayerAttention:
    """:class:`rcp.choosing.view.AttentionBlocks` of the layer at ``place``, handed out on
    ``device``.

    The layer itself keeps its fast attention: only the rows asked for are computed, each set once.
    """

    backbone: Backbone
    place: Place
    device: torch.device
    _weights: dict[tuple[RowSet, bool, bool], Tensor] = field(default_factory=dict)

    def __call__(
        self,
        queries: RowSet,
        keys: RowSet = "visual",
        *,
        rotary: bool = True,
        among_visual: bool = False,
    ) -> Tensor:
        asked = queries, rotary, among_visual
        if asked not in self._weights:
            self._weights[asked] = self._attend(*asked)
        rows = self._rows(keys)
        found = rows.take_last(self._weights[asked])
        if rows.valid is not None:
            found = found * rows.valid[:, None, None]
        return found.to(self.device)

    @cached_property
    def visual_keys(self) -> Tensor:
        normed = self.place.normed
        _, key = self.backbone.qk(
            self.place.layer, normed[:, :1], normed, _first_row(self.place.rope), self.place.rope
        )
        return self.place.visual.take(key.mean(1)).float().to(self.device)

    def _rows(self, which: RowSet) -> Positions:
        """Where a set is among the rows of the place."""
        if which == "visual":
            return self.place.visual
        question = self.place.question
        if which == "question":
            return question
        if question.run is not None:
            return Positions(run=question.run[-1:])
        index = question.index(self.place.hidden)
        if question.valid is None:
            return Positions(index[:, -1:])
        count = question.valid.sum(1, keepdim=True)
        return Positions(index.gather(1, (count - 1).clamp(min=0)), valid=count > 0)

    def _attend(self, queries: RowSet, rotary: bool, among_visual: bool) -> Tensor:
        """Attention of a set of rows to every row of the place, (B, H, X, R) fp32."""
        rows = self._rows(queries)
        rope = self.place.rope
        if not rotary:  # turned by an angle of zero
            rope = torch.ones_like(rope[0]), torch.zeros_like(rope[1])
        query, key = self._query_and_key(rows, rope)
        logits = self.backbone.attention_logits(self.place.layer, query, key)
        forbidden = self._forbidden(rows, among_visual)
        weights = logits.masked_fill(forbidden, torch.finfo(logits.dtype).min).softmax(-1)
        if rows.valid is None and self.place.alive is None and not among_visual:
            return weights  # each row sees itself, at least
        weights = weights * ~forbidden
        return weights if rows.valid is None else weights * rows.valid[:, None, :, None]

    def _query_and_key(self, rows: Positions, rope: Rope) -> tuple[Tensor, Tensor]:
        layer, normed = self.place.layer, self.place.normed
        if rows.run is not None:
            return self.backbone.qk_of_run(layer, rows.run, normed, rope)
        of_rows = rows.take(rope[0]), rows.take(rope[1])
        return self.backbone.qk(layer, rows.take(normed), normed, of_rows, rope)

    def _forbidden(self, rows: Positions, among_visual: bool) -> Tensor:
        """Which rows of the place the ``rows`` may not attend to: (B or 1, 1, X, R) bool."""
        place = self.place
        if place.mask is None:
            forbidden = not_causal(
                rows.take(place.columns), place.columns, self.backbone.windows[place.layer]
            )
        else:
            allowed = take_mask_rows(place.mask, rows.index(place.hidden))
            if allowed.dtype == torch.bool:
                forbidden = ~allowed
            else:
                forbidden = allowed <= torch.finfo(allowed.dtype).min / 2
        keys = place.alive
        if among_visual:
            visual = self._visual_rows()
            keys = visual if keys is None else keys & visual
        return forbidden if keys is None else forbidden | ~keys[:, None, None, :]

    def _visual_rows(self) -> Tensor:
        """(B, R) bool: which rows are visual slots that exist."""
        place, visual = self.place, self.place.visual
        # added up, because slots that do not exist may point at a row of one that does
        times = torch.zeros_like(place.columns)
        index = visual.index(times)
        exists = torch.ones_like(index) if visual.valid is None else visual.valid.long()
        return times.scatter_add(1, index, exists) > 0


def _first_row(rope: Rope) -> Rope:
    return rope[0][:, :1], rope[1][:, :1]
