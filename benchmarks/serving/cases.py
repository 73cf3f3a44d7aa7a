"""Requests as users send them: by case, prompts with their images and budgets."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from PIL import Image

PREAMBLE = "USER: what is the colour of the red square? ASSISTANT: red</s>" * 4


@dataclass(frozen=True)
class Request:
    """``prompt`` with one placeholder for each of ``images``, which are files; ``budget`` as in
    ``mm_processor_kwargs``, None for the server's; ``uuid`` is the user's name of the image."""

    prompt: str
    images: tuple[Path, ...]
    budget: int | float | str | None = None
    uuid: str | None = None

    def opened(self) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in self.images]


@dataclass(frozen=True)
class Question:
    """``text`` without the placeholder, the file of its image, and the ``answer`` where known."""

    text: str
    image: Path
    answer: str = ""


def questions(data: Path, limit: int) -> list[Question]:
    """The first ``limit`` of the set in the folder ``data``."""
    rows = json.loads((data / f"{data.name}.json").read_text())[:limit]
    texts = [row["conversations"][0]["value"].removeprefix("<image>\n") for row in rows]
    answers = [row["conversations"][1]["value"] for row in rows]
    return [Question(text, data / row["image"], answer)
            for text, row, answer in zip(texts, rows, answers)]


def asked(question: Question, **changes: object) -> Request:
    request = Request(f"USER: <image>\n{question.text} ASSISTANT:", (question.image,))
    return replace(request, **changes)  # type: ignore[arg-type]


def cases(
    known: Sequence[Question], budgets: Sequence[int | float | str]
) -> Iterator[tuple[str, list[Request]]]:
    """Each case by name; ``budgets`` are those that the plug-in takes, beside its own."""
    one = [asked(question) for question in known]
    yield "one image", one
    yield "the same again, from the caches", one[:100]
    yield "budgets mixed in one batch, pruning switched off among them", [
        asked(question, budget=budget)
        for question, budget in zip(known[:200], cycle([None, *budgets, "all"]))
    ]
    few = known[:40]
    by_image = {question.image: question for question in few}
    yield "all questions about one image", [asked(q, images=(few[0].image,)) for q in few]
    yield "one question about all images", [
        asked(few[0], images=(image,)) for image in by_image
    ]
    yield "two questions about an image with a uuid of the user's", [
        asked(q, uuid=q.image.name) for q in few
    ]
    images = list(by_image)
    yield "two images", [
        Request(f"USER: <image>\n<image>\n{q.text} ASSISTANT:", (q.image, images[-1])) for q in few
    ]
    yield "the same image twice", [
        Request(f"USER: <image>\nand <image>\n{q.text} ASSISTANT:", (q.image, q.image))
        for q in few
    ]
    yield "text alone", [Request(f"USER: {q.text} ASSISTANT:", ()) for q in few[:20]]
    yield "second turns", [
        Request(f"USER: <image>\n{q.text} ASSISTANT: red</s>USER: {p.text} ASSISTANT:", (q.image,))
        for q, p in zip(few, few[1:])
    ]
    yield "a long prefix that all share", [
        Request(f"{PREAMBLE}USER: <image>\n{q.text} ASSISTANT:", (q.image,)) for q in few
    ]
