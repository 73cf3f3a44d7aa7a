"""EXAONE 4.5: the tower of Qwen2.5-VL, a decoder that norms behind its blocks."""

from typing import Any

from torch import Tensor

from rcp.backbones.base import Backbone, Rope
from rcp.backbones.places import Places, unplaced


class Exaone45(Backbone):
    model_types = ("exaone4_5",)
    title = "EXAONE 4.5"
    videos = True
    limits = (
        "its visual tokens have no place: nothing in the prompt tells an image's width; "
        "positions are not repacked"
    )

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)

    def norm(self, layer: int) -> Any:
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.post_attention_layernorm

    def input_norm(self, layer: int, hidden: Tensor) -> Tensor:
        return hidden  # a block norms what it gives, not what it is given

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        # beside layers of sliding windows, those of full attention know no positions
        if self.window(layer) is None and self.text_config.sliding_window is not None:
            return query, key
        return super().rotated(layer, query, key, rope)
