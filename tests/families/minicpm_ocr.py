"""MiniCPM-OCR, which came with a later release than MiniCPM-V 4.7."""

from transformers import MiniCPMOcrConfig, MiniCPMOcrForConditionalGeneration

from .minicpm import minicpm

ENTRY_CASES = {
    "minicpm_ocr": lambda: minicpm(MiniCPMOcrConfig, MiniCPMOcrForConditionalGeneration),
}
