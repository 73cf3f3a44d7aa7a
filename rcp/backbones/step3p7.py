"""Step 3.7: views of one image after the other, gated heads, layers of windows and of experts."""

from torch import Tensor

from rcp.backbones.base import Rope
from rcp.backbones.unplaced import Unplaced


class Step37(Unplaced):
    model_types = ("step3p7",)
    title = "Step 3.7"
    limits = (
        "its visual tokens have no place: nothing in the prompt tells how an image was cut; "
        "positions are not repacked where layers have windows"
    )

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        return self.decoder.rotary_emb(hidden, positions, "full_attention")
