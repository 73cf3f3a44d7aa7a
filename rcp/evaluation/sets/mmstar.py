"""MMStar: lettered questions that cannot be answered without their image."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import BY_LETTER, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, optional_text, text

LETTERS = tuple("ABCD")


class MmStar(EvaluationSet):
    """The validation split, the only one; the options stand in the question."""

    name = "mmstar"
    title = "MMStar"
    hub = Hub("Lin-Chen/MMStar", "val")
    rows = 1_500
    ending = BY_LETTER.removesuffix(".")
    prompt = "{question, which holds the options}" + ending
    prompt_source = "lmms-eval, tasks/mmstar"
    metric = "letter_choice"
    arguments = {"rule": "first_letter"}
    primary = "accuracy"
    parsing = "the letter, A to D, that the answer starts with; anything else is wrong"
    max_new_tokens = 16

    def question(self, row: Row) -> Asked:
        answer = one_of(row, "answer", LETTERS)
        return asked(
            row,
            text(row, "question") + self.ending,
            answer,
            {"references": answer, "options": list(LETTERS)},
            images=[image(row)],
            kind=optional_text(row, "category"),
            name=optional_text(row, "index") or None,
        )
