"""DeepSeek-VL, also with a second tower for detail, and Janus: one square image, Llama."""

from rcp.backbones.base import Backbone


class DeepseekVL(Backbone):
    model_types = ("deepseek_vl", "deepseek_vl_hybrid", "janus")
    title = "DeepSeek-VL, DeepSeek-VL hybrid, Janus (understanding images, not drawing them)"

    @property
    def visual_tokens(self) -> int:
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2
