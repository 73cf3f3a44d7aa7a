"""Ovis2: visual tokens are mixtures of a visual vocabulary; tiles between indicator tokens."""

from rcp.backbones.base import Backbone


class Ovis2(Backbone):
    model_types = ("ovis2",)
    title = "Ovis2"
    limits = "each tile counts as an image: indicator tokens between tiles are ordinary text"
