"""RealWorldQA: lettered questions and short answers about what a car or a person sees."""

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.metrics.letters import first_letter
from rcp.evaluation.sets.asking import asked
from rcp.evaluation.sets.base import Hub
from rcp.evaluation.sets.exact import ExactSet
from rcp.evaluation.sets.fields import image, text

LETTERS = tuple("ABCDEF")
LETTERED, WORDS = "lettered", "words"


class RealWorldQa(ExactSet):
    """The test split; its questions say themselves how they are to be answered."""

    name = "realworldqa"
    title = "RealWorldQA"
    hub = Hub("lmms-lab/RealWorldQA", "test")
    rows = 765
    prompt = "{question, which holds the options and how to answer}"
    prompt_source = "RealWorldQA; lmms-eval, tasks/realworldqa"
    parsing = (
        "where a letter is asked for, the one that the answer starts with; else the answer without "
        "case, outer space and a final period. Anything else is wrong"
    )
    max_new_tokens = 16

    def question(self, row: Row) -> Asked:
        answer = text(row, "answer")
        kind = LETTERED if answer in LETTERS else WORDS
        return asked(
            row,
            text(row, "question"),
            answer,
            {"answers": answer, "question_types": kind},
            images=[image(row)],
            kind=kind,
        )

    def parsed(self, answer: str, sample: Sample) -> str:
        if sample.question_type == LETTERED:
            return first_letter(answer, LETTERS) or ""
        return answer.strip().rstrip(".")
