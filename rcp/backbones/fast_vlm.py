"""FastVLM: a convolutional tower, a Qwen2 decoder."""

from rcp.backbones.base import Backbone
from rcp.backbones.tower import Tower


class FastVLM(Backbone):
    model_types = ("fast_vlm",)
    title = "FastVLM"

    @property
    def tower(self) -> Tower:
        return Tower(self.model, crops=False)
