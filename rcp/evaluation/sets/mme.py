"""MME: two questions about each image, one of which is to be answered with no."""

import logging
from collections import Counter
from collections.abc import Sequence

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.errors import UserError
from rcp.evaluation.metrics.mme import CATEGORIES, says
from rcp.evaluation.metrics.yes_no import label
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, text
from rcp.quoting import quoted

logger = logging.getLogger(__name__)

OWN_WORDS = " Please answer yes or no."
ASKED = 2


class MmeSet(EvaluationSet):
    """Perception and cognition; the sum of both is what tables of 1862 points mean."""

    name = "mme"
    title = "MME, perception and cognition"
    hub = Hub("lmms-lab/MME", "test")
    rows = 2_374
    prompt = "{question}" + SHORTLY
    prompt_source = f"{LLAVA}, in place of the set's own \"Please answer yes or no.\""
    metric = "mme"
    primary = "perception_and_cognition"
    percent = False  # points
    parsing = (
        "yes or no in the first four characters; anything else is wrong. An image of which only "
        "one question could be answered is left out with a warning"
    )
    max_new_tokens = 16

    def question(self, row: Row) -> Asked:
        category = one_of(row, "category", CATEGORIES)
        answer = one_of(row, "answer", ("yes", "no"))
        return asked(
            row,
            text(row, "question").replace(OWN_WORDS, "") + SHORTLY,
            answer,
            {"references": answer, "categories": category, "images": text(row, "question_id")},
            images=[image(row)],
            kind=category,
        )

    def check(self, samples: Sequence[Sample]) -> None:
        often = [name for name, count in images_of(samples).items() if count > ASKED]
        if often:
            raise UserError(
                f"{len(often)} images of MME are asked about more than twice, the first is "
                f"{quoted('/'.join(often[0]))}: rows are there more than once. Get the set anew."
            )

    def score(self, answer: str, sample: Sample) -> float:
        return float(says(answer) is label(sample.answer))

    def figures(self, answers: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        counts = images_of(samples)
        whole = [counts[image_of(sample)] == ASKED for sample in samples]
        if not all(whole):
            logger.warning(
                "%d of %d questions of MME are about images whose other question has no answer; "
                "they are in no figure.", whole.count(False), len(whole),
            )
        kept = [pair for pair, is_whole in zip(zip(answers, samples, strict=True), whole)
                if is_whole]
        return super().figures([answer for answer, _ in kept], [sample for _, sample in kept])


def image_of(sample: Sample) -> tuple[str, str]:
    """The category and the image that ``sample`` asks about."""
    assert sample.facts is not None
    return sample.facts["categories"], sample.facts["images"]


def images_of(samples: Sequence[Sample]) -> Counter[tuple[str, str]]:
    """How often each image is asked about."""
    return Counter(map(image_of, samples))
