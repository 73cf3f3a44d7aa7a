"""Molmo 2: its own tower of crops, a decoder after Qwen3 or OLMo, images seen both ways."""

from typing import Any

from torch import Tensor

from rcp.backbones.unplaced import Unplaced
from rcp.errors import UserError


class Molmo2(Unplaced):
    model_types = ("molmo2",)
    title = "Molmo 2"
    videos = True
    limits = (
        "its visual tokens have no place: column tokens between their rows are ordinary text; "
        "images and videos may not share a batch"
    )
    bidirectional = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        scaled = set(self.text_config.rope_scaling_layers)
        if 0 < len(scaled) < len(self.layers):
            raise UserError(
                f"{type(model).__name__} scales the rotary embedding of {len(scaled)} of its "
                f"{len(self.layers)} layers, and closing gaps knows one embedding for all. Choose "
                f"a size whose rope_scaling_layers are all layers or none."
            )

    def input_norm(self, layer: int, hidden: Tensor) -> Tensor:
        # OLMo norms what a block gives, not what it is given
        return hidden if self.text_config.norm_after else super().input_norm(layer, hidden)

    def _heads(self, attention: Any, which: str, rows: Tensor) -> Tensor:
        if attention.qk_norm_type == "qwen3":
            return super()._heads(attention, which, rows)
        projected = getattr(attention, f"{which}_proj")(rows)
        normed = getattr(attention, f"{which}_norm")(projected)  # over all heads together
        return normed.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
