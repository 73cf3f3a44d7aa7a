"""LLaVA-1.5: a CLIP-like or Pixtral tower and any decoder of full or sliding attention."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, broken_rows
from rcp.backbones.tower import Tower


class Llava(Backbone):
    model_types = ("llava",)
    title = "LLaVA-1.5, Pixtral"
    limits = "a decoder with sliding windows: no flash attention; positions are not repacked"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places | None:
        if self.config.vision_config.model_type == "pixtral":
            return broken_rows(image, embeds)
        return None

    @property
    def visual_tokens(self) -> int | None:
        vision = self.config.vision_config
        if vision.model_type == "pixtral":
            return None
        side = vision.image_size // vision.patch_size
        return side * side + (self.config.vision_feature_select_strategy == "full")

    @property
    def tower(self) -> Tower:
        crops = self.config.vision_feature_select_strategy == "default"
        return Tower(self.model, crops=crops, each_patch=True)
