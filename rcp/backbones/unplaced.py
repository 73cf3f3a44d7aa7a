"""Families that do not know where in its image a visual token lies, and do not guess."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced

NO_WIDTH = "its visual tokens have no place: nothing in the prompt tells an image's width"
FROM_THE_WHOLE = "its visual tokens have no place: each is made from the whole image"


class Unplaced(Backbone):
    limits = NO_WIDTH

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
