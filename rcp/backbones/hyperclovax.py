"""HyperCLOVA X SEED Think: the tower of Qwen2.5-VL, a decoder with plain positions."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class HyperClovaX(Backbone):
    model_types = ("hyperclovax_vision_v2",)
    title = "HyperCLOVA X SEED Think"
    videos = True
    limits = "its visual tokens have no place: nothing in the prompt tells an image's width"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
