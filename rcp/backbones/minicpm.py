"""MiniCPM-V 4.6, 4.7 and MiniCPM-OCR: slices of an image by markers, the decoder of Qwen3.5."""

from rcp.backbones.before_decoder import NO_PADDING_LATER
from rcp.backbones.qwen3_5 import Qwen3_5Decoder
from rcp.backbones.unplaced import NO_WIDTH, Unplaced


class MiniCPM(Qwen3_5Decoder, Unplaced):
    model_types = ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")
    title = "MiniCPM-V 4.6 and 4.7, MiniCPM-OCR"
    videos = True
    limits = f"{NO_WIDTH}; {NO_PADDING_LATER}"
