"""LightOnOCR: a Pixtral tower whose patches are merged, without break tokens; a Qwen3 decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class LightOnOcr(Backbone):
    model_types = ("lighton_ocr",)
    title = "LightOnOCR"
    limits = "its visual tokens have no place: nothing in the prompt tells an image's width"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
