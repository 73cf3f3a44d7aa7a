"""PaliGemma 1 and 2: the whole prompt is bidirectional, images come first."""

from rcp.backbones.base import Backbone


class PaliGemma(Backbone):
    model_types = ("paligemma",)
    title = "PaliGemma 1 and 2"
    limits = "one turn"
    bidirectional = True

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2
