"""InternVL and Qianfan-OCR: tiles of as many tokens each, one after the other, unseparated."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, tiled
from rcp.backbones.tower import Tower


class InternVL(Backbone):
    model_types = ("internvl", "qianfan_ocr")
    title = "InternVL, Qianfan-OCR"
    limits = "a token's place is that in its tile: the model is not told how tiles are laid out"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        side = vision.image_size[0] // vision.patch_size[0]
        return tiled(image, round(side * self.config.downsample_ratio))

    @property
    def tower(self) -> Tower:
        return Tower(
            self.model,
            crops=self.config.vision_feature_select_strategy == "default",
            fold=self._fold,
        )

    def _fold(self, facts: Tensor) -> Tensor:
        """The mean over the patches that pixel shuffling joins."""
        side = round(facts.shape[1] ** 0.5)
        blocks = self.model.base_model.pixel_shuffle(
            facts.unflatten(1, (side, side)), scale_factor=self.config.downsample_ratio
        )
        return blocks.flatten(1, 2).unflatten(-1, (-1, facts.shape[-1])).mean(-2)
