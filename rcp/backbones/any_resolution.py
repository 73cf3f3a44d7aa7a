"""LLaVA-NeXT and LLaVA-OneVision: a base image, then rows of tiles that end in newline vectors."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, any_resolution


class AnyResolution(Backbone):
    """Newline vectors sit in image slots: they count among the visual tokens and may be dropped,
    so that a budget means what it says. They have no place."""

    model_types = ("llava_next", "llava_onevision")
    title = "LLaVA-NeXT, LLaVA-OneVision (images, videos)"
    limits = "newline rows count as visual tokens; images need text between them for right places"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        newline = self.model.base_model.image_newline.to(embeds)
        is_newline = image & (embeds == newline).all(-1)
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return any_resolution(image, is_newline, side, frame_side=-(-side // 2))
