"""VQAv2: short answers that ten people gave."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import LLAVA, SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, optional_text, text, texts


class VqaV2(EvaluationSet):
    """The validation split: answers of the test splits are on a server alone."""

    name = "vqav2"
    title = "VQAv2, validation"
    hub = Hub("lmms-lab/VQAv2", "validation")
    rows = 214_354
    prompt = "{question}" + SHORTLY
    prompt_source = LLAVA
    metric = "vqa_v2"
    primary = "accuracy"
    parsing = "none; papers' test-dev scores are of another split"
    max_new_tokens = 16
    files = ("v2_OpenEnded_mscoco_val2014_questions.json",)
    image_folder = "val2014"

    def question(self, row: Row) -> Asked:
        # the published questions have their answers in a file of annotations, which is joined
        joined = row.get("annotation")
        told = joined if isinstance(joined, dict) and joined else row
        answers = texts(told, "answers")
        return asked(
            row,
            text(row, "question") + SHORTLY,
            answers,
            {"references": answers},
            images=[image(row)],
            kind=optional_text(told, "answer_type"),
        )
