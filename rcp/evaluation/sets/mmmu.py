"""MMMU: questions of university, with up to seven images among the words and the options."""

import ast
import re

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Refused, Row
from rcp.conversations.sample import PLACEHOLDER
from rcp.evaluation.sets.asking import BY_LETTER, asked, lettered
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, optional_text, text
from rcp.quoting import quoted

PLACE = re.compile(r"<image (\d)>")


class Mmmu(EvaluationSet):
    """The multiple-choice questions of the validation split.

    An image stands where it is first mentioned; where it is mentioned again, its name does.
    """

    name = "mmmu"
    title = "MMMU, validation, multiple choice"
    hub = Hub("lmms-lab/MMMU", "validation")
    rows = 847
    prompt = "{question}\nA. {A}\nB. {B}\n...\n" + BY_LETTER
    prompt_source = "lmms-eval, tasks/mmmu/utils.py"
    metric = "letter_choice"
    arguments = {"rule": "mmmu"}
    primary = "accuracy"
    parsing = (
        "MMMU's own, but an unparsable answer is wrong where MMMU draws an option: "
        "accuracy_if_guessed is the mean over all draws. Open questions are left out"
    )
    max_new_tokens = 16
    unverified = "number of multiple-choice questions among 900"

    def question(self, row: Row) -> Asked | None:
        if one_of(row, "question_type", ("multiple-choice", "open")) == "open":
            return None
        options = options_of(row)
        answer = text(row, "answer")
        words = f"{text(row, 'question')}\n{lettered(options)}\n{BY_LETTER}"
        names = list(dict.fromkeys(f"image_{number}" for number in PLACE.findall(words)))
        for name in names:
            mention = f"<image {name[-1]}>"
            words = words.replace(mention, PLACEHOLDER, 1).replace(mention, f"image {name[-1]}")
        return asked(
            row,
            words,
            answer,
            {"references": answer, "options": options},
            images=[image(row, name) for name in names],
            kind=optional_text(row, "subfield"),
        )


def options_of(row: Row) -> list[str]:
    """The options, a list that is published as the text of a Python list."""
    held = row.get("options")
    try:
        found = ast.literal_eval(held) if isinstance(held, str) else held
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not found:
        raise Refused(f"has no list of options but {quoted(held)}. Get the row anew, or remove it.")
    return [str(option) for option in found]
