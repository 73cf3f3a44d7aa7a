"""TextVQA: short answers that have to be read; with and without what an OCR system read."""

from typing import ClassVar

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, text, texts


class TextVqa(EvaluationSet):
    """The validation split, without OCR tokens in the prompt."""

    name = "textvqa"
    title = "TextVQA, validation, no OCR tokens in the prompt"
    hub = Hub("lmms-lab/textvqa", "validation")
    rows = 5_000
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    metric = "vqa_evalai"
    primary = "accuracy"
    parsing = "none; LLaVA's published 58.2 is of textvqa_ocr"
    max_new_tokens = 128
    files: ClassVar[tuple[str, ...]] = ("TextVQA_0.5.1_val.json",)
    image_folder = "train_images"

    def question(self, row: Row) -> Asked:
        answers = texts(row, "answers")
        return asked(
            row,
            text(row, "question") + self.read_by_ocr(row) + SHORTLY,
            answers,
            {"references": answers},
            images=[image(row)],
        )

    def read_by_ocr(self, row: Row) -> str:
        """What of the OCR tokens of ``row`` stands in the prompt."""
        return ""


class TextVqaOcr(TextVqa):
    """With the OCR tokens that LLaVA's evaluation puts into the prompt."""

    name = "textvqa_ocr"
    title = "TextVQA, validation, OCR tokens in the prompt"
    prompt = "{question}\nReference OCR token: {ocr_tokens}" + SHORTLY
    prompt_source = "LLaVA, llava_textvqa_val_v051_ocr.jsonl; lmms-eval, tasks/textvqa/utils.py"
    parsing = "none; a score for itself, not to be compared with textvqa"
    files: ClassVar[tuple[str, ...]] = ()  # TextVQA_0.5.1_val.json holds no OCR tokens

    def read_by_ocr(self, row: Row) -> str:
        # an image without any text has an empty list
        tokens = [] if row.get("ocr_tokens") == [] else texts(row, "ocr_tokens")
        return f"\nReference OCR token: {', '.join(tokens)}"
