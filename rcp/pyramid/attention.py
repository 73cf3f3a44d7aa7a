"""Which of a tile's visual tokens the question's end attends to, in the frozen model itself."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.choosing.view import total_attention
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

    It is the teacher of LRS-VQA's region focus module [note], which needs no training and a full
    forward. Each tile stands in a prompt of its own [ours]: with all tiles of a level in one, the
    attention of models that have learned single images goes to their places in the prompt. On 36
    mosaics of the embedded model the tile chosen alone answers 22, the one chosen among the others
    10. Raises ``UserError`` for a layer that the decoder lacks, or its last one.
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
                    asking.model(**inputs, use_cache=False, logits_to_keep=1)
                    view = trace.views[behind]
                    weights = view.blocks("attention_before")("last")
                attention = total_attention(weights) / weights.shape[1]
                places = (view.grid.float().flip(-1) + 1) / 2
                found.append(Scores(attention.cpu(), places.cpu(), view.alive.cpu()))
        return Scores(*(_joined(values) for values in zip(*found)))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all ``parts``, which families that keep an aspect ratio may pad differently."""
    rows = [row for part in parts for row in part]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
