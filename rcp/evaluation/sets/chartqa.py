"""ChartQA: short answers that are read off a chart, in questions by people and by programs."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.metrics.relaxed_accuracy import SPLITS
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, one_of, text

TEST = "_test"


class ChartQa(EvaluationSet):
    """The test split, whose halves are reported apart, too."""

    name = "chartqa"
    title = "ChartQA, test, human and augmented"
    hub = Hub("lmms-lab/ChartQA", "test")
    rows = 2_500
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    metric = "relaxed_accuracy"
    primary = "accuracy"
    parsing = "numbers as written; \"1,000\" and \"$5\" are none, and have to be equal"
    max_new_tokens = 16

    def question(self, row: Row) -> Asked:
        split = one_of(row, "type", tuple(half + TEST for half in SPLITS)).removesuffix(TEST)
        answer = text(row, "answer")
        return asked(
            row,
            text(row, "question") + SHORTLY,
            answer,
            {"references": answer, "splits": split},
            images=[image(row)],
            kind=split,
        )
