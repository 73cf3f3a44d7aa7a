"""Aria: learned queries that each look at the whole image, a mixture of experts."""

from rcp.backbones.unplaced import FROM_THE_WHOLE, Unplaced


class Aria(Unplaced):
    model_types = ("aria",)
    title = "Aria"
    limits = FROM_THE_WHOLE
