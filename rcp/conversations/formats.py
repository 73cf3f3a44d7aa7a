"""The published layouts of question files, all turned into rows of LLaVA conversations.

LLaVA (a list of conversations, or one a line), plain questions (a list of ``{"image", "question",
"answer"}``), TextVQA (``{"data": [...]}``), GQA (``{id: {...}}``) and VQAv2 (``{"questions":
[...]}``, the annotations in their own file beside it).
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from rcp.errors import UserError

PLACEHOLDER = "<image>"
"""Marks the place of an image in the text of a question."""

Row = dict[str, Any]


def read_rows(path: Path) -> list[Any]:
    """The rows of the file ``path``, as conversations where they are anything known.

    Raises ``UserError`` for a file that cannot be read, is no JSON or holds no list.
    """
    content = _parsed(path)
    if isinstance(content, dict):
        content = _unwrapped(content, path)
    if not isinstance(content, list) or not content:
        raise UserError(
            f"'{path}' holds {'an empty list' if content == [] else type(content).__name__}, but "
            "a non-empty JSON list of conversations is needed. See data/README.md for the format."
        )
    return [as_conversation(row) for row in content]


def as_conversation(row: Any) -> Any:
    """A plain question with its answer as a conversation; anything else as it is.

    Of several answers, as ten people give them in VQA, the most frequent one counts.
    """
    if not isinstance(row, dict) or "conversations" in row or "question" not in row:
        return row
    images = row.get("image") or []
    images = [images] if isinstance(images, str) else images
    question = row["question"]
    # what is of another type stays as it is, to be refused by name like any bad conversation
    if isinstance(question, str) and isinstance(images, list) and PLACEHOLDER not in question:
        question = PLACEHOLDER * len(images) + "\n" * bool(images) + question
    return {
        "id": row.get("id", row.get("question_id")),
        "image": images,
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": _answer(row)},
        ],
        "question_type": row.get("question_type"),
    }


def _answer(row: Row) -> str:
    """The most frequent answer of ``row``, empty where it has none that is text or a number."""
    given = row.get("answers") or row.get("answer")
    given = given if isinstance(given, list) else [given]
    found = [answer.get("answer") if isinstance(answer, dict) else answer for answer in given]
    texts = [str(answer) for answer in found if isinstance(answer, (str, int, float))]
    return Counter(texts).most_common(1)[0][0] if texts else ""


def _parsed(path: Path) -> Any:
    number = 0
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows programs begin a file with a mark
        if path.suffix != ".jsonl":
            return json.loads(text)
        rows = []
        # not splitlines: it also splits at separators that may stand inside a JSON string
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                rows.append(json.loads(line))
        return rows
    except (OSError, ValueError, RecursionError) as error:
        place = f"line {number} of it: " if number else ""
        raise UserError(
            f"'{path}' is not valid JSON ({place}{error}). Give a JSON list of conversations, or "
            "one a line in a file called .jsonl; if the file was cut short, make it again."
        ) from error


def _unwrapped(content: dict[str, Any], path: Path) -> Any:
    """The list of questions inside the object a benchmark publishes."""
    if isinstance(content.get("data"), list):
        return [
            _with_image(row, f"{row.get('image_id')}.jpg") if isinstance(row, dict) else row
            for row in content["data"]
        ]
    if isinstance(content.get("questions"), list):
        return _vqa_v2(content, path)
    if content and all(isinstance(v, dict) and "imageId" in v for v in content.values()):
        return [
            _with_image({**row, "id": name, "question_type": _gqa_type(row)},
                        f"{row['imageId']}.jpg")
            for name, row in content.items()
        ]
    return content


def _with_image(row: Row, image: str) -> Row:
    return {**row, "image": row.get("image", image)}


def _gqa_type(row: Row) -> Any:
    types = row.get("types")
    return types.get("structural") if isinstance(types, dict) else None


def _vqa_v2(content: dict[str, Any], path: Path) -> list[Row]:
    """Questions and annotations joined; image names are those of MS COCO."""
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    beside = path.with_name(name)
    if name == path.name or not os.path.isfile(beside):
        raise UserError(
            f"'{path}' holds questions of VQAv2, whose answers are published in a file of their "
            f"own: put '{beside.name}' beside it."
        )
    annotations = _parsed(beside)
    listed = annotations.get("annotations") if isinstance(annotations, dict) else None
    if not isinstance(listed, list):
        raise UserError(
            f"'{beside}' holds no list of annotations, so that the questions of '{path}' have no "
            "answers. Put the annotations that VQAv2 publishes there."
        )
    answers = {str(row.get("question_id")): row for row in listed if isinstance(row, dict)}
    subset = content.get("data_subtype", "train2014")
    rows = []
    for row in content["questions"]:
        if isinstance(row, dict):
            answer = answers.get(str(row.get("question_id")), {})
            row = {
                **row,
                "answer": answer.get("multiple_choice_answer"),
                "question_type": answer.get("answer_type"),
                "image": f"COCO_{subset}_{str(row.get('image_id')).zfill(12)}.jpg",
            }
        rows.append(row)
    return rows
