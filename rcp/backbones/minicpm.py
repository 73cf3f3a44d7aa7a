"""MiniCPM-V 4.6 and MiniCPM-OCR: slices of an image between markers, the decoder of Qwen3.5."""

from torch import Tensor

from rcp.backbones.places import Places, unplaced
from rcp.backbones.qwen3_5 import Qwen3_5Decoder


class MiniCPM(Qwen3_5Decoder):
    model_types = ("minicpm_ocr", "minicpmv4_6")
    title = "MiniCPM-V 4.6, MiniCPM-OCR"
    videos = True
    limits = (
        "its visual tokens have no place: nothing in the prompt tells an image's width; on a "
        "filled cache no padding is passed over, as without a plug-in"
    )

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
