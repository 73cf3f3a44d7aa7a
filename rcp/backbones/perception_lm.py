"""Perception LM: tiles or frames of pooled patches, one after the other; a Llama decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, tiled


class PerceptionLM(Backbone):
    model_types = ("perception_lm",)
    title = "Perception LM"
    videos = True
    limits = "a token's place is that in its tile: the model is not told how tiles are laid out"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        patches, _ = self.config.vision_config.model_args["ref_feat_shape"]
        return tiled(image, patches // self.config.projector_pooling_ratio)
