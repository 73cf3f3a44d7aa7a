"""Qwen2-VL, Qwen2.5-VL and GLM-4V: M-RoPE, whose positions hold the rows and columns."""

from typing import ClassVar

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, from_positions


class MRope(Backbone):
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "glm4v")
    title = "Qwen2-VL, Qwen2.5-VL, GLM-4V (images, videos)"
    limits = "decoding by hand needs position_ids, as without a plug-in"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places | None:
        if positions is None or positions.dim() != 3 or len(positions) < 3:
            return None
        return from_positions(image, positions)
