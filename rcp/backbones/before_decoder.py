"""Families that can lose tokens before their decoder, and nowhere inside it."""

from collections.abc import Sequence

from rcp.backbones.base import Backbone
from rcp.errors import UserError

NO_PADDING_LATER = "on a filled cache no padding is passed over, as without a plug-in"


class BeforeDecoder(Backbone):
    """A family whose decoder can be given a shorter prompt, and cannot lose rows on the way.

    What it answers is by definition what it answers to a prompt that never had the rows that are
    gone: those left stand at their own positions, and whatever else counts rows (a running state,
    a chunk, a window) counts these. ``only_before`` says why, to follow the model's name.
    """

    @property
    def takes_shorter_prompts(self) -> bool:
        return True

    def _refuse_layer_types(self) -> None:
        """None is in the way of a prompt that is short from the start."""


def refuse_stages_inside(backbone: Backbone, layers: Sequence[int]) -> None:
    """Raise ``UserError`` if no stage can stand at one of ``layers``."""
    inside = [layer for layer in layers if layer > 0]
    if backbone.only_before and inside:
        raise UserError(
            f"{type(backbone.model).__name__} {backbone.only_before}, so that none can be dropped "
            f"at layer {inside[0]}. Its decoder can be given a shorter prompt: use one stage, at "
            f"layer 0."
        )
