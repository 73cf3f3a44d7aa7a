"""The published layouts of question files, all turned into rows of LLaVA conversations.

LLaVA (a list of conversations, or one a line), plain questions (a list of ``{"image", "question",
"answer"}``), TextVQA (``{"data": [...]}``), GQA (``{id: {...}}``) and VQAv2 (``{"questions":
[...]}``, the annotations in their own file beside it).
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rcp.errors import UserError

PLACEHOLDER = "<image>"
"""Marks the place of an image in the text of a question."""

Row = dict[str, Any]


def read_rows(path: Path) -> list[Any]:
    """The rows of the file ``path``, as conversations where they are anything known."""
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
    answers = row.get("answers", row.get("answer"))
    answers = [answers] if isinstance(answers, (str, int, float)) else answers or [""]
    texts = [str(a["answer"]) if isinstance(a, dict) else str(a) for a in answers]
    images = row.get("image") or []
    images = [images] if isinstance(images, str) else images
    question = str(row["question"])
    if PLACEHOLDER not in question:
        question = PLACEHOLDER * len(images) + "\n" * bool(images) + question
    return {
        "id": row.get("id", row.get("question_id")),
        "image": images,
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": Counter(texts).most_common(1)[0][0]},
        ],
        "question_type": row.get("question_type"),
    }


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{path}' is not valid JSON ({error}). Give a JSON list of conversations; if the "
            "file was cut short, make it again."
        ) from error


def _unwrapped(content: dict[str, Any], path: Path) -> Any:
    """The list of questions inside the object a benchmark publishes."""
    if isinstance(content.get("data"), list):
        return [_with_image(row, f"{row.get('image_id')}.jpg") for row in content["data"]]
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
    if name == path.name or not beside.is_file():
        raise UserError(
            f"'{path}' holds questions of VQAv2, whose answers are published in a file of their "
            f"own: put '{beside.name}' beside it."
        )
    answers = {row["question_id"]: row for row in _parsed(beside)["annotations"]}
    subset = content.get("data_subtype", "train2014")
    rows = []
    for row in content["questions"]:
        answer = answers.get(row["question_id"], {})
        rows.append(
            {
                **row,
                "answer": answer.get("multiple_choice_answer", ""),
                "question_type": answer.get("answer_type"),
                "image": f"COCO_{subset}_{row['image_id']:012d}.jpg",
            }
        )
    return rows
