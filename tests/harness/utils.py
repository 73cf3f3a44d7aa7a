"""How the tasks of this folder read a row of a conversation file."""

import json
from functools import cache
from pathlib import Path

from PIL import Image

DATA = Path("runs/data/test")
PLACEHOLDER = "<image>"


def visuals(doc):
    return [Image.open(DATA / doc["image"]).convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["conversations"][0]["value"].replace(PLACEHOLDER, "").strip()


def messages(doc, lmms_eval_specific_kwargs=None):
    shown = [{"type": "image", "url": image} for image in visuals(doc)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text(doc)}]}]


def answer(doc):
    return doc["conversations"][1]["value"]


def choices(doc):
    """All answers to questions of its type."""
    return _answers()[doc["question_type"]]


@cache
def _answers():
    found = {}
    for row in json.loads((DATA / "test.json").read_text()):
        found.setdefault(row["question_type"], set()).add(answer(row))
    return {kind: sorted(answers) for kind, answers in found.items()}
