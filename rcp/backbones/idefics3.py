"""Idefics3 and SmolVLM: tiles between marker tokens, the decoder under ``text_model``."""

from rcp.backbones.base import Backbone


class Idefics3(Backbone):
    model_types = ("idefics3", "smolvlm")
    title = "Idefics3, SmolVLM"
    limits = "each tile counts as an image: marker tokens between tiles are ordinary text"
