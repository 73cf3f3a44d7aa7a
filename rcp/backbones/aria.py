"""Aria: learned queries that each look at the whole image, a mixture of experts."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class Aria(Backbone):
    model_types = ("aria",)
    title = "Aria"
    limits = "its visual tokens have no place: each is made from the whole image"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
