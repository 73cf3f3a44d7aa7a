"""MMMU: questions of university, with up to seven images among the words and the options."""

import ast
import re

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Refused, Row
from rcp.conversations.sample import PLACEHOLDER
from rcp.evaluation.metrics.open_answers import is_held
from rcp.evaluation.sets.asking import BY_LETTER, SHORTLY, asked, letter_of, lettered
from rcp.evaluation.sets.base import EvaluationSet, Facts, Hub
from rcp.evaluation.sets.fields import image, one_of, optional_text, text
from rcp.quoting import quoted

PLACE = re.compile(r"<image (\d)>")
OPEN, OTHERWISE = "open", "anything else"


class Mmmu(EvaluationSet):
    """The validation split.

    An image stands where it is first mentioned; where it is mentioned again, its name does. To the
    metric, the accepted answers of an open question, and anything else, are its options.
    """

    name = "mmmu"
    title = "MMMU, validation"
    hub = Hub("lmms-lab/MMMU", "validation")
    rows = 900
    prompt = "{question}\nA. {A}\nB. {B}\n...\n" + BY_LETTER + "\nor, open: {question}\n" + SHORTLY
    prompt_source = "lmms-eval, tasks/mmmu/utils.py"
    metric = "letter_choice"
    arguments = {"rule": "mmmu"}
    primary = "accuracy"
    parsing = (
        "MMMU's own, but an unparsable answer is wrong where MMMU draws an option: "
        "accuracy_if_guessed is the mean over all draws. An open answer has to hold the reference"
    )
    max_new_tokens = 16
    unverified = "the words behind an open question"

    def question(self, row: Row) -> Asked:
        said = text(row, "question")
        if one_of(row, "question_type", ("multiple-choice", OPEN)) == OPEN:
            answers = listed(row, "answer") or [text(row, "answer")]
            facts = {"references": "A", "options": [*answers, OTHERWISE]}
            return self._placed(row, f"{said}\n{SHORTLY}", answers, facts, OPEN)
        options = listed(row, "options")
        if not options:
            raise Refused(
                f"has no list of options but {quoted(row.get('options'))}. Get the row anew, or "
                "remove it."
            )
        answer = text(row, "answer")
        facts = {"references": answer, "options": options}
        words = f"{said}\n{lettered(options)}\n{BY_LETTER}"
        kind = optional_text(row, "subfield")
        return self._placed(row, words, [answer], facts, kind)

    def parsed(self, answer: str, sample: Sample) -> str:
        if sample.question_type != OPEN:
            return answer
        assert sample.facts is not None
        *accepted, _ = options = sample.facts["options"]
        return "A" if is_held(answer, accepted) else letter_of(len(options) - 1, options)

    @staticmethod
    def _placed(row: Row, words: str, answers: list[str], facts: Facts, kind: str) -> Asked:
        """What is asked in ``words``, each image where it is first mentioned."""
        names = list(dict.fromkeys(f"image_{number}" for number in PLACE.findall(words)))
        for name in names:
            mention = f"<image {name[-1]}>"
            words = words.replace(mention, PLACEHOLDER, 1).replace(mention, f"image {name[-1]}")
        images = [image(row, name) for name in names]
        return asked(row, words, answers, facts, images=images, kind=kind)


def listed(row: Row, name: str) -> list[str]:
    """The list in ``name``, published as the text of a Python list; empty where there is none."""
    held = row.get(name)
    try:
        found = ast.literal_eval(held) if isinstance(held, str) else held
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    return [str(entry) for entry in found] if isinstance(found, list) else []
