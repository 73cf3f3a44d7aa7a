"""DeepSeek-OCR 2: learned queries behind the patches of each view, a mixture of experts."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class DeepseekOcr2(Backbone):
    model_types = ("deepseek_ocr2",)
    title = "DeepSeek-OCR 2"
    limits = (
        "its visual tokens have no place: each is made from the whole view; the separator behind "
        "an image's views counts as one of them"
    )

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
