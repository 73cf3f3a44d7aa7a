"""ScienceQA: lettered questions of school, about half of them without an image."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import NOTHING, Row
from rcp.evaluation.sets.asking import BY_LETTER, asked, letter_of, lettered
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, optional_text, text, texts, whole


class ScienceQa(EvaluationSet):
    """All questions of the test split; those without an image are asked as text alone."""

    name = "scienceqa"
    title = "ScienceQA, test, questions without an image too"
    hub = Hub("lmms-lab/ScienceQA", "test", "ScienceQA-FULL")
    rows = 4_241
    prompt = "Context: {hint}\n{question}\nA. {A}\nB. {B}\n..." + BY_LETTER
    prompt_source = "lmms-eval, tasks/scienceqa/utils.py, after LLaVA's"
    metric = "letter_choice"
    arguments = {"rule": "scienceqa"}
    primary = "accuracy"
    parsing = "a bare letter, \"B. ...\" or \"The answer is B.\"; anything else is wrong"
    max_new_tokens = 16

    def question(self, row: Row) -> Asked | None:
        options = texts(row, "choices")
        answer = letter_of(whole(row, "answer"), options)
        hint = optional_text(row, "hint")
        lines = (hint and f"Context: {hint}", text(row, "question"), lettered(options))
        return asked(
            row,
            "\n".join(filter(None, lines)) + BY_LETTER,
            answer,
            {"references": answer, "options": options},
            images=[image(row)] if has_image(row) else [],
            kind=optional_text(row, "subject"),
        )


class ScienceQaImages(ScienceQa):
    """The questions with an image."""

    name = "scienceqa_img"
    title = "ScienceQA, test, questions with an image"
    hub = Hub("lmms-lab/ScienceQA", "test", "ScienceQA-IMG")
    rows = 2_017

    def question(self, row: Row) -> Asked | None:
        return super().question(row) if has_image(row) else None


def has_image(row: Row) -> bool:
    """Whether ``row`` is about an image."""
    return row.get("image") not in NOTHING
