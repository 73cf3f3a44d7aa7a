"""DocVQA: short answers that stand in a scanned page."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, text, texts


class DocVqa(EvaluationSet):
    """The validation split: answers of the test split are on a server alone."""

    name = "docvqa"
    title = "DocVQA, validation"
    hub = Hub("lmms-lab/DocVQA", "validation", "DocVQA")
    rows = 5_349
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    metric = "anls"
    primary = "anls"
    parsing = "none; a similarity below 0.5 counts nothing"
    max_new_tokens = 128

    def question(self, row: Row) -> Asked:
        answers = texts(row, "answers")
        return asked(
            row,
            text(row, "question") + SHORTLY,
            answers,
            {"references": answers},
            images=[image(row)],
            name=text(row, "questionId"),
        )
