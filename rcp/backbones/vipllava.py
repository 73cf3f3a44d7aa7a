"""ViP-LLaVA: LLaVA over several tower layers."""

from rcp.backbones.base import Backbone
from rcp.backbones.tower import Tower


class VipLlava(Backbone):
    model_types = ("vipllava",)
    title = "ViP-LLaVA"

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def tower(self) -> Tower:
        return Tower(self.model, crops=True)
