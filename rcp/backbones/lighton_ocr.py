"""LightOnOCR: a Pixtral tower whose patches are merged, without break tokens; a Qwen3 decoder."""

from rcp.backbones.unplaced import Unplaced


class LightOnOcr(Unplaced):
    model_types = ("lighton_ocr",)
    title = "LightOnOCR"
