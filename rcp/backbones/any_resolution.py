"""LLaVA-NeXT, its videos, LLaVA-OneVision: a base image, rows of tiles that end in newlines."""

import inspect
from typing import Any

import torch
from torch import Tensor

from rcp.backbones.base import Arguments, Backbone
from rcp.backbones.places import Places, any_resolution, frames_of_any_resolution
from rcp.backbones.tower import Tower


class AnyResolution(Backbone):
    """Newline vectors sit in image slots: they count among the visual tokens and may be dropped,
    so that a budget means what it says. They have no place."""

    model_types = ("llava_next",)
    title = "LLaVA-NeXT"
    limits = "newline rows count as visual tokens; images need text between them for right places"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return any_resolution(image, self._newlines(image, embeds), *self._sides)

    def frames(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor:
        return frames_of_any_resolution(image, self._newlines(image, embeds), *self._sides)

    def _newlines(self, image: Tensor, embeds: Tensor) -> Tensor:
        newline = self.model.base_model.image_newline.to(embeds)
        return image & (embeds == newline).all(-1)

    @property
    def _sides(self) -> tuple[int, int]:
        """Tokens of one side of an image's tile, and of a video's frame."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, self.frame_side(side)

    def frame_side(self, side: int) -> int:
        """Tokens of one side of a video's frame, given those of an image's tile."""
        return -(-side // 2)

    @property
    def tower(self) -> Tower:
        return Tower(self.model, crops=self.config.vision_feature_select_strategy == "default")

    def packed(self, facts: Tensor, call: Arguments) -> Tensor:
        """Through the model's own unpadding (and shrinking); newline rows are zero."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        host: Any = self.model.base_model
        sizes = call["image_sizes"]
        tiles = [
            image_size_to_num_patches(
                size, self.config.image_grid_pinpoints, self.config.vision_config.image_size
            )
            for size in sizes
        ]
        options: Arguments = {"image_newline": facts.new_zeros(facts.shape[-1])}
        if "vision_aspect_ratio" in inspect.signature(host.pack_image_features).parameters:
            # LLaVA-OneVision: where a sample shows several images, each is one tile
            shown = call.get("batch_num_images")
            alone = [True] * len(sizes)
            if shown is not None:
                alone = [count == 1 for count in shown for _ in range(count)]
            tiles = [count if whole else 1 for count, whole in zip(tiles, alone)]
            ratio = call.get("vision_aspect_ratio") or self.config.vision_aspect_ratio
            options["vision_aspect_ratio"] = ratio
        else:
            options["vision_feature_select_strategy"] = self.config.vision_feature_select_strategy
        features, _ = host.pack_image_features(facts.split(tiles), sizes, **options)
        return torch.cat(list(features))


class LlavaOnevision(AnyResolution):
    model_types = ("llava_onevision",)
    title = "LLaVA-OneVision"
    videos = True


class LlavaNextVideo(AnyResolution):
    model_types = ("llava_next_video",)
    title = "LLaVA-NeXT-Video"
    videos = True

    def frame_side(self, side: int) -> int:
        return side // self.config.spatial_pool_stride
