"""DeepSeek-OCR 2: learned queries behind the patches of each view, a mixture of experts."""

from rcp.backbones.unplaced import FROM_THE_WHOLE, Unplaced


class DeepseekOcr2(Unplaced):
    model_types = ("deepseek_ocr2",)
    title = "DeepSeek-OCR 2"
    limits = f"{FROM_THE_WHOLE}; the separator behind an image's views counts as one of them"
