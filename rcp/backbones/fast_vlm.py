"""FastVLM: a convolutional tower, a Qwen2 decoder."""

from rcp.backbones.base import Backbone


class FastVLM(Backbone):
    model_types = ("fast_vlm",)
    title = "FastVLM"
