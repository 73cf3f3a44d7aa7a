"""Mistral 3: a Pixtral tower whose patches are merged, a Mistral decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, broken_rows


class Mistral3(Backbone):
    model_types = ("mistral3",)
    title = "Mistral 3"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return broken_rows(image, embeds)
