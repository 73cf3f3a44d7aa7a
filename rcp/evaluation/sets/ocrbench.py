"""OCRBench: a thousand texts to be read, from scenes to formulas."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, optional_text, text, texts


class OcrBench(EvaluationSet):
    """The test split, the only one."""

    name = "ocrbench"
    title = "OCRBench"
    hub = Hub("echo840/OCRBench", "test")
    rows = 1_000
    prompt = "{question}"
    prompt_source = "OCRBench, example.py of Yuliang-Liu/MultimodalOCR; lmms-eval, tasks/ocrbench"
    metric = "containment"
    primary = "right"
    percent = False  # a number of questions
    own = "accuracy"
    parsing = "none: right where a reference occurs anywhere in the answer"
    max_new_tokens = 128

    def question(self, row: Row) -> Asked:
        answers = texts(row, "answer")
        return asked(
            row,
            text(row, "question"),
            answers,
            {"references": answers, "datasets": text(row, "dataset")},
            images=[image(row)],
            kind=optional_text(row, "question_type"),
        )
