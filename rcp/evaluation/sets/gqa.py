"""GQA: short answers about how things in an image are related."""

import string

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.conversations.sample import NO_TYPE
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import Hub
from rcp.evaluation.sets.exact import ExactSet
from rcp.evaluation.sets.fields import image, optional_text, text

UNPUNCTUATED = str.maketrans("", "", string.punctuation)


class Gqa(ExactSet):
    """The balanced test-dev split; its images are a table of their own on the hub."""

    name = "gqa"
    title = "GQA, test-dev balanced"
    hub = Hub("lmms-lab/GQA", "testdev", "testdev_balanced_instructions")
    images_of_hub = Hub("lmms-lab/GQA", "testdev", "testdev_balanced_images")
    rows = 12_578
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    parsing = "case and punctuation do not count"
    max_new_tokens = 16
    files = ("testdev_balanced_questions.json",)
    unverified = "number of rows"

    def question(self, row: Row) -> Asked:
        types = row.get("types")
        kind = optional_text(types if isinstance(types, dict) else row, "structural")
        answer = text(row, "answer")
        return asked(
            row,
            text(row, "question") + SHORTLY,
            answer,
            {"answers": bare(answer), "question_types": kind or NO_TYPE},
            images=[image(self.with_image(row))],
            kind=kind,
        )

    def with_image(self, row: Row) -> Row:
        """``row`` with the image that it names, where images are in a table of their own."""
        return {"image": self.images.get(optional_text(row, "imageId")), **row}

    def parsed(self, answer: str, sample: Sample) -> str:
        return bare(answer)


def bare(answer: str) -> str:
    """``answer`` in lower case without punctuation."""
    return answer.lower().translate(UNPUNCTUATED).strip()
