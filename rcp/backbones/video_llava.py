"""Video-LLaVA: a tower for images and one for frames, a Vicuna decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, frames


class VideoLlava(Backbone):
    model_types = ("video_llava",)
    title = "Video-LLaVA"
    videos = True
    limits = "a frame's [CLS] counts as a visual token"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        return frames(image, vision.image_size // vision.patch_size)

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2
