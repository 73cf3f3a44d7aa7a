"""VizWiz: questions of blind people about photographs they took."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import SHORTLY, asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, optional_text, text, texts

OR_NOT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class VizWiz(EvaluationSet):
    """The validation split: the server for the test split is closed."""

    name = "vizwiz"
    title = "VizWiz, validation"
    hub = Hub("lmms-lab/VizWiz-VQA", "val")
    rows = 4_319
    prompt = "{question}" + OR_NOT + SHORTLY
    prompt_source = "LLaVA-1.5; lmms-eval, tasks/vizwiz_vqa"
    metric = "vqa_evalai"
    primary = "accuracy"
    parsing = "none"
    max_new_tokens = 128
    files = ("val.json",)
    image_folder = "val"

    def question(self, row: Row) -> Asked:
        answers = texts(row, "answers")
        return asked(
            row,
            text(row, "question") + OR_NOT + SHORTLY,
            answers,
            {"references": answers},
            images=[image(row)],
            kind=optional_text(row, "category") or optional_text(row, "answer_type"),
        )
