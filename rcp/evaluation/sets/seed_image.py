"""SEED-Bench: lettered questions about images; those about videos are left out."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import BY_LETTER, LLAVA, asked, lettered
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, optional_text, text

CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


class SeedImage(EvaluationSet):
    """The rows whose data type is "image"."""

    name = "seed_image"
    title = "SEED-Bench, images"
    hub = Hub("lmms-lab/SEED-Bench", "test")
    rows = 14_233
    prompt = "{question}\nA. {A}\nB. {B}\n..." + BY_LETTER
    prompt_source = LLAVA
    metric = "letter_choice"
    arguments = {"rule": "first_letter"}
    primary = "accuracy"
    parsing = "the letter that the answer starts with; anything else is wrong"
    max_new_tokens = 16
    unverified = "number of rows about images among 17 990"

    def question(self, row: Row) -> Asked | None:
        if one_of(row, "data_type", ("image", "video")) == "video":
            return None
        options = [text(row, choice) for choice in CHOICES]
        answer = text(row, "answer")
        return asked(
            row,
            f"{text(row, 'question')}\n{lettered(options)}{BY_LETTER}",
            answer,
            {"references": answer, "options": options},
            images=[image(row)],
            kind=optional_text(row, "question_type_id"),
        )
