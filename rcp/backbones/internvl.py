"""InternVL: tiles of a fixed number of tokens, one after the other without a separator."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, tiled


class InternVL(Backbone):
    model_types = ("internvl",)
    title = "InternVL"
    limits = "a token's place is that in its tile: the model is not told how tiles are laid out"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        side = vision.image_size[0] // vision.patch_size[0]
        return tiled(image, round(side * self.config.downsample_ratio))
