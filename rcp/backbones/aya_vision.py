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

    def both_rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        turns = self.window(layer) is not None
        return super().both_rotated(layer, query, key, rope) if turns else (query, key)
