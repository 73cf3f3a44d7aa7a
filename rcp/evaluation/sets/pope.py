"""POPE: is there an object in the image? In three splits, of ever more tempting absent ones."""

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.metrics.pope import SPLITS
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, text


class PopeSet(EvaluationSet):
    """All three splits, 3 000 questions each."""

    name = "pope"
    title = "POPE, random, popular and adversarial"
    hub = Hub("lmms-lab/POPE", "test")
    rows = 9_000
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    metric = "pope"
    primary = "f1"
    parsing = (
        "no where the first sentence has No, no or not as a word; everything else is yes, an "
        "unparsable answer too. The F1 is the mean over the three splits"
    )
    max_new_tokens = 128
    image_folder = "val2014"

    def question(self, row: Row) -> Asked:
        split = one_of(row, "category", SPLITS)
        answer = one_of(row, "answer", ("yes", "no"))
        return asked(
            row,
            text(row, "question") + SHORTLY,
            answer,
            {"references": answer, "splits": split},
            images=[image(row)],
            kind=split,
        )

    def score(self, answer: str, sample: Sample) -> float:
        # of one sample, an F1 says nothing
        return self.figures([answer], [sample])[f"accuracy_{sample.question_type}"]
