"""Video-LLaVA: a tower for images and one for frames, a Vicuna decoder."""

import torch
from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, frames, image_runs, rank


class VideoLlava(Backbone):
    model_types = ("video_llava",)
    title = "Video-LLaVA"
    videos = True
    limits = "a frame's [CLS] counts as a visual token"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        return frames(image, vision.image_size // vision.patch_size)

    def frames(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor:
        return torch.div(rank(image_runs(image), image), self.visual_tokens + 1,
                         rounding_mode="floor")

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2
