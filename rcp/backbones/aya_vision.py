"""Aya Vision: the decoder and the tiles of Command A Vision."""

from rcp.backbones.cohere2_vision import Cohere2Vision


class AyaVision(Cohere2Vision):
    model_types = ("aya_vision",)
    title = "Aya Vision"
