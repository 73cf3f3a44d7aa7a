"""Qwen2-VL, Qwen2.5-VL and PaddleOCR-VL: M-RoPE, whose positions hold the rows and columns."""

from typing import ClassVar

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, from_positions, raster_numbers


class MRope(Backbone):
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    title = "Qwen2-VL, Qwen2.5-VL"
    videos = True
    limits: ClassVar[str] = (
        "as without a plug-in: decoding by hand needs position_ids, and a cache that holds an "
        "image takes no further one (before transformers 5.23, no filled cache takes one)"
    )

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places | None:
        if positions is None or positions.dim() != 3 or len(positions) < 3:
            return None
        return from_positions(image, positions)

    def frames(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor | None:
        if positions is None or positions.dim() != 3 or len(positions) < 3:
            return None
        return raster_numbers(positions)


class PaddleOcrVL(MRope):
    model_types = ("paddleocr_vl",)
    title = "PaddleOCR-VL"
    videos = False
