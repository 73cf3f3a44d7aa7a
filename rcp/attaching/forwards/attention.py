"""Blocks of one layer's attention, computed from the layer's own modules when a method asks."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from rcp.attaching.forwards.place import Place
from rcp.attaching.masks import causal, take_mask_rows
from rcp.backbones import Backbone
from rcp.choosing.tokens import take_rows
from rcp.choosing.view import RowSet


@dataclass(frozen=True)
class LayerAttention:
    """:class:`rcp.choosing.view.AttentionBlocks` of the layer at ``place``.

    ``alive`` (B, N) and ``question_valid`` (B, Q) bool say which visual slots and question tokens
    of the place exist, and their device is where the blocks go. The layer itself keeps its fast
    attention: only the rows asked for are computed, each set once.
    """

    backbone: Backbone
    place: Place
    alive: Tensor
    question_valid: Tensor
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
        weights = self._weights[asked]
        rows, valid = self._rows(keys)
        index = rows[:, None, None].expand(-1, *weights.shape[1:3], -1)
        return (weights.gather(3, index) * valid[:, None, None]).to(self.alive.device)

    @cached_property
    def visual_keys(self) -> Tensor:
        normed = self.normed
        _, key = self.backbone.qk(
            self.place.layer, normed[:, :1], normed, _first_row(self.place.rope), self.place.rope
        )
        return take_rows(key.mean(1), self.place.visual).float().to(self.alive.device)

    @cached_property
    def normed(self) -> Tensor:
        """The layer's normed input, (B, R, D)."""
        return self.backbone.input_norm(self.place.layer, self.place.hidden)

    def _rows(self, which: RowSet) -> tuple[Tensor, Tensor]:
        """Positions (B, X) of a set among the rows of the place, and which of them exist."""
        place = self.place
        if which == "visual":
            return place.visual, self.alive.to(place.visual.device)
        valid = self.question_valid.to(place.question.device)
        if which == "question":
            return place.question, valid
        count = valid.sum(1, keepdim=True)
        return place.question.gather(1, (count - 1).clamp(min=0)), count > 0

    def _attend(self, queries: RowSet, rotary: bool, among_visual: bool) -> Tensor:
        """Attention of a set of rows to every row of the place, (B, H, X, R) fp32."""
        place = self.place
        rows, valid = self._rows(queries)
        cos, sin = place.rope
        if not rotary:  # turned by an angle of zero
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        query, key = self.backbone.qk(
            place.layer,
            take_rows(self.normed, rows),
            self.normed,
            (take_rows(cos, rows), take_rows(sin, rows)),
            (cos, sin),
        )
        logits = self.backbone.attention_logits(place.layer, query, key)
        allowed = self._allowed(rows, among_visual)
        weights = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min).softmax(-1)
        return weights * (valid[:, None, :, None] & allowed)

    def _allowed(self, rows: Tensor, among_visual: bool) -> Tensor:
        """Which rows of the place the rows at ``rows`` (B, X) may attend to: (B, 1, X, R) bool."""
        place = self.place
        if place.mask is None:
            window = self.backbone.window(place.layer)
            allowed = causal(place.columns.gather(1, rows), place.columns, window)
        else:
            allowed = take_mask_rows(place.mask, rows)
            if allowed.dtype != torch.bool:
                allowed = allowed > torch.finfo(allowed.dtype).min / 2
        keys = place.alive
        if among_visual:
            # added up, because slots that do not exist may point at a row of one that does
            slots, exists = self._rows("visual")
            visual = torch.zeros_like(keys, dtype=torch.long)
            keys = keys & (visual.scatter_add(1, slots, exists.long()) > 0)
        return allowed & keys[:, None, None, :]


def _first_row(rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return rope[0][:, :1], rope[1][:, :1]
