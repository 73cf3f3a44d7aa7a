"""CHAIR: long descriptions of COCO images, and the objects in them that are not there."""

from functools import cached_property
from math import isnan
from pathlib import Path

from torchmetrics import Metric

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Refused, Row
from rcp.evaluation.metrics.answer_metric import METRICS
from rcp.evaluation.sets.asking import asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, texts

DESCRIBE = "Please describe this image in detail."
SYNONYMS = "synonyms.txt"


class ChairSet(EvaluationSet):
    """The images of COCO's val2014, with their objects and captions.

    Papers take 500 of them at random: --limit 500 takes the first. They also report shorter
    descriptions, of 64 new tokens.
    """

    name = "chair"
    title = "CHAIR, COCO val2014"
    hub = Hub("lmms-lab/COCO-Caption", "val")
    beside_hub = f"the objects of COCO's instances and CHAIR's {SYNONYMS} are not in it"
    rows = 40_504
    prompt = DESCRIBE
    prompt_source = "OPERA (arXiv 2311.17911), chair_eval.py"
    metric = "chair"
    primary = "recall"
    parsing = (
        "none; chair_s and chair_i, for which lower is better, stand beside the recall. One "
        "description's own score is its recall, 1 where there is nothing to find"
    )
    max_new_tokens = 512
    files = ("annotations/captions_val2014.json",)
    image_folder = "val2014"

    @cached_property
    def counter(self) -> Metric:
        return METRICS.get(self.metric)((self.root or Path()) / SYNONYMS)

    def question(self, row: Row) -> Asked:
        captions = texts(row, "captions")
        if "objects" not in row:
            raise Refused("has no list 'objects', without which hallucinations cannot be told.")
        return asked(
            row,
            DESCRIBE,
            captions[0],
            {"references": captions + (texts(row, "objects") if row["objects"] else [])},
            images=[image(row)],
        )

    def score(self, answer: str, sample: Sample) -> float:
        recall = super().score(answer, sample)
        return 1.0 if isnan(recall) else recall
