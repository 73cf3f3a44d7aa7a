"""LLaVA-1.5: a CLIP-like tower, a projector and any decoder of full or sliding attention."""

from rcp.backbones.base import Backbone


class Llava(Backbone):
    model_types = ("llava",)

    @property
    def visual_tokens(self) -> int | None:
        vision = self.config.vision_config
        if not hasattr(vision, "patch_size") or not isinstance(vision.image_size, int):
            return None
        side = vision.image_size // vision.patch_size
        return side * side + (self.config.vision_feature_select_strategy == "full")
