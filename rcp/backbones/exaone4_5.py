"""EXAONE 4.5: the tower of Qwen2.5-VL, a decoder that norms behind its blocks."""

from typing import Any

from torch import Tensor

from rcp.backbones.base import Rope
from rcp.backbones.unplaced import NO_WIDTH, Unplaced


class Exaone45(Unplaced):
    model_types = ("exaone4_5",)
    title = "EXAONE 4.5"
    videos = True
    limits = f"{NO_WIDTH}; positions are not repacked"

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
