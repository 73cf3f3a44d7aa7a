"""Which of a tile's visual tokens the question's end attends to, in the frozen model itself."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.attaching.stopping import stopping_at
from rcp.choosing.view import View, total_attention
from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.pyramid.asking import Asking

BATCH = 8
"""Tiles in one forward."""


class Scores(NamedTuple):
    """Of each visual token of each tile.

    ``attention`` (T, N) fp32, higher matters more; ``places`` (T, N, 2) fp32: x and y in [0, 1] of
    the tile's width and height, NaN where a token has no place (a row's newline); ``exists`` (T, N)
    bool.
    """

    attention: Tensor
    places: Tensor
    exists: Tensor


class Scorer(Protocol):
    """Says which tokens of ``tiles`` matter to the question of ``asking``."""

    def __call__(self, asking: Asking, tiles: Sequence[Image.Image]) -> Scores: ...


class OwnAttention:
    """The attention of the prompt's last token in decoder layer ``layer``, mean over heads.

    It is the teacher of LRS-VQA's region focus module [note], which needs no training and a forward
    as far as that layer. Each tile stands in a prompt of its own [ours]: with all tiles of a level
    in one, the attention of models that have learned single images goes astray. Raises
    ``UserError`` for a layer that the decoder lacks, or its last one.
    """

    def __init__(self, layer: int) -> None:
        self.layer = layer

    @torch.no_grad()
    def __call__(self, asking: Asking, tiles: Sequence[Image.Image]) -> Scores:
        depth = len(asking.backbone.layers)
        if not 0 <= self.layer < depth - 1:
            raise UserError(
                f"The attention of layer {self.layer} is asked for, and the decoder has {depth} "
                f"layers. Choose one of 0 to {depth - 2}: it is read from the layer behind."
            )
        behind = self.layer + 1
        spec = PluginSpec([StageSpec(behind, 1.0, "fastv")])
        observer = Plugin.for_model(spec, asking.model).eval()
        found = []
        with attach(asking.model, observer, "record") as handle:
            for start in range(0, len(tiles), BATCH):
                inputs = asking.inputs([[tile] for tile in tiles[start : start + BATCH]])
                with handle.trace(views=[behind]) as trace:
                    with stopping_at(asking.backbone.layers[behind]):
                        asking.model(**inputs, use_cache=False)
                    view = trace.views[behind]
                    weights = view.blocks("attention_before")("last")
                found.append(placed(total_attention(weights) / weights.shape[1], view))
        return joined(found)


def placed(attention: Tensor, view: View) -> Scores:
    """``attention`` (T, N) with the places of the tokens of ``view``, on the CPU."""
    places = (view.grid.float().flip(-1) + 1) / 2
    return Scores(attention.cpu(), places.cpu(), view.alive.cpu())


def joined(parts: Sequence[Scores]) -> Scores:
    """The tiles of all ``parts``, which families that keep an aspect ratio may pad differently."""
    attention, places, exists = (
        torch.nn.utils.rnn.pad_sequence([row for part in values for row in part], batch_first=True)
        for values in zip(*parts)
    )
    return Scores(attention, places, exists)


def shares(scores: Scores) -> Tensor:
    """Attention of each token over that of all tiles together, (T * N,) fp32, 0 where none is."""
    attention = (scores.attention * scores.exists).flatten()
    return attention / attention.sum().clamp(min=torch.finfo(attention.dtype).tiny)
