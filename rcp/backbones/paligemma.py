"""PaliGemma 1 and 2: the whole prompt is bidirectional, images come first."""

from rcp.backbones.base import Backbone
from rcp.backbones.tower import Tower


class PaliGemma(Backbone):
    model_types = ("paligemma",)
    title = "PaliGemma 1 and 2"
    limits = "one turn; positions are not repacked in PaliGemma 2 (windows)"
    untrainable = "has a processor that ends every text with a newline, behind the answer, too"
    bidirectional = True

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def tower(self) -> Tower:
        return Tower(self.model, crops=False)
