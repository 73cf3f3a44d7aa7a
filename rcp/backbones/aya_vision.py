"""Aya Vision: a Cohere 2 decoder, whose full-attention layers know no positions."""

from torch import Tensor

from rcp.backbones.base import Backbone, Rope


class AyaVision(Backbone):
    model_types = ("aya_vision",)
    title = "Aya Vision"
    limits = (
        "each tile counts as an image: marker tokens between tiles are ordinary text; "
        "positions are not repacked"
    )

    def rotated(self, layer: int, heads: Tensor, rope: Rope) -> Tensor:
        return heads if self.window(layer) is None else super().rotated(layer, heads, rope)
