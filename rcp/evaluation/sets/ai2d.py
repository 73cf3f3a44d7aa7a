"""AI2D: lettered questions about diagrams of school books."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import BY_LETTER, LLAVA, asked, letter_of, lettered
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, text, texts, whole


class Ai2d(EvaluationSet):
    """The test split, the letters in the diagrams as they are."""

    name = "ai2d"
    title = "AI2D, test"
    hub = Hub("lmms-lab/ai2d", "test")
    rows = 3_088
    prompt = "{question}\nA. {A}\nB. {B}\n..." + BY_LETTER
    prompt_source = LLAVA
    metric = "letter_choice"
    arguments = {"rule": "mmmu"}
    primary = "accuracy"
    parsing = (
        "MMMU's: the letter named last, else in long answers the option quoted last; anything else "
        "is wrong"
    )
    max_new_tokens = 16

    def question(self, row: Row) -> Asked:
        options = texts(row, "options")
        answer = letter_of(whole(row, "answer"), options)
        return asked(
            row,
            f"{text(row, 'question')}\n{lettered(options)}{BY_LETTER}",
            answer,
            {"references": answer, "options": options},
            images=[image(row)],
        )
