"""A trained module in place of the model's own attention: no layer of the decoder runs for it."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.attaching.stopping import stopping_at
from rcp.backbones import backbone_for
from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import BATCH, Scores, joined, placed
from rcp.quoting import quoted

METHOD = "covipal"
HEADS, INNER, BLOCKS = 8, 512, 2


def focus_module(model: Any) -> Plugin:
    """A fresh one for ``model``: a plug-in of one stage before the decoder, which drops nothing.

    LRS-VQA copies a few layers of the decoder [note]. Ours is CoViPAL's scorer, which sees tokens,
    question and places likewise, is smaller, and is one for every family. [ours]
    """
    inner = min(INNER, backbone_for(model).hidden_size // HEADS * HEADS)
    arguments = {"inner": inner, "blocks": BLOCKS, "heads": HEADS}
    return Plugin.for_model(PluginSpec([StageSpec(0, 1.0, METHOD, arguments)]), model)


class Focus:
    """Scores by ``plugin``, which :func:`focus_module` has made and a training has taught.

    Raises ``UserError`` for a plug-in of another kind.
    """

    def __init__(self, plugin: Plugin) -> None:
        found = [(stage.layer, stage.method) for stage in plugin.spec.stages]
        if found != [(0, METHOD)]:
            raise UserError(
                f"The stages of this plug-in are {quoted(found)}, those of a focus module are "
                f"[(0, '{METHOD}')]. Train one: python -m rcp focus."
            )
        self.plugin = plugin

    @torch.no_grad()
    def __call__(self, asking: Asking, tiles: Sequence[Image.Image]) -> Scores:
        """Each token's share of the attention to all ``tiles``, as it is expected."""
        self.plugin.eval()
        scores = self.logits(asking, tiles)
        share = log_shares(scores).exp().view_as(scores.attention)
        return scores._replace(attention=share * scores.exists)

    def logits(self, asking: Asking, tiles: Sequence[Image.Image]) -> Scores:
        """The logarithms of these shares up to a constant, with gradients to the module."""
        found = []
        with attach(asking.model, self.plugin, "record") as handle:
            for start in range(0, len(tiles), BATCH):
                inputs = asking.inputs([[tile] for tile in tiles[start : start + BATCH]])
                with torch.no_grad(), handle.trace(views=[0]) as trace:
                    with stopping_at(asking.backbone.layers[0]):
                        asking.model(**inputs, use_cache=False)
                    view = trace.views[0].mapped(_full)
                found.append(placed(self.plugin.pruner(0)(view), view))
        return joined(found)


def log_shares(scores: Scores) -> Tensor:
    """Log-softmax of logits over the tokens of all tiles together, (T * N,) fp32."""
    lowest = torch.finfo(torch.float32).min
    return scores.attention.masked_fill(~scores.exists, lowest).flatten().log_softmax(0)


def _full(values: Tensor) -> Tensor:
    """What the module computes with is fp32, whatever the model's precision."""
    return values.float() if values.is_floating_point() else values
