"""Idefics2: a resampler, whose learned queries each look at the whole image."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class Idefics2(Backbone):
    model_types = ("idefics2",)
    title = "Idefics2"
    limits = "its visual tokens have no place: each is made from the whole image"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)

    @property
    def visual_tokens(self) -> int:
        return self.config.perceiver_config.resampler_n_latents
