"""Gemma 3: two masks and two rotary sets by layer type, images that see themselves both ways."""

from rcp.backbones.base import Backbone


class Gemma3(Backbone):
    model_types = ("gemma3", "shieldgemma2")
    title = "Gemma 3, ShieldGemma 2 (what it writes)"
    limits = (
        "window layers save memory only while the window does not bind; positions are not "
        "repacked; before transformers 5.23 an image on a filled cache is wrong, as without a "
        "plug-in"
    )
    bidirectional = True

    @property
    def visual_tokens(self) -> int:
        return self.config.mm_tokens_per_image
