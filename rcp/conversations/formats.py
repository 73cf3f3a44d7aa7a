"""The published layouts of question files, all turned into lists of rows.

Lists of rows (or one a line) of any layout of :mod:`rcp.conversations.layouts`, TextVQA (``{"data":
[...]}``), GQA (``{id: {...}}``), VQAv2 (``{"questions": [...]}``, the annotations in their own file
beside it), and the captions of MS COCO (``{"images": [...]}``, likewise beside the instances).
"""

import codecs
import json
import os
from pathlib import Path
from typing import Any

from rcp.conversations.coco import images_of
from rcp.conversations.layouts import Row
from rcp.conversations.rows import Broken
from rcp.errors import UserError
from rcp.quoting import plain, quoted

MARK = codecs.BOM_UTF8
"""Windows programs begin a file with it."""


def read_rows(path: Path) -> list[Any]:
    """The rows of the file ``path``, of JSON lines also those that cannot be parsed.

    Raises ``UserError`` for a file that cannot be read, is no JSON or holds no list.
    """
    content = _parsed(path)
    if isinstance(content, dict):
        content = _unwrapped(content, path)
    if not isinstance(content, list) or not content:
        held = "an empty list" if content == [] else type(content).__name__
        raise UserError(
            f"{quoted(path)} holds {held}, but a non-empty JSON list of conversations is needed. "
            "See data/README.md for the format."
        )
    return content


def _parsed(path: Path) -> Any:
    """The JSON of ``path``; of lines those that cannot be parsed as :class:`Broken`."""
    try:
        content = path.read_bytes().removeprefix(MARK)
        if path.suffix == ".jsonl":
            return _lines(content)
        return json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{quoted(path)} is not valid JSON ({plain(error)}). Give a JSON list of "
            "conversations, or one a line in a file called .jsonl; if the file was cut short, make "
            "it again."
        ) from error


def _lines(content: bytes) -> list[Any]:
    rows: list[Any] = []
    # not splitlines: it also splits at separators that may stand inside a JSON string
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line.decode()))
            except (ValueError, RecursionError) as error:
                rows.append(Broken(f"line {number} of it: {plain(error)}"))
    return rows


def _unwrapped(content: dict[str, Any], path: Path) -> Any:
    """The list of questions inside the object a benchmark publishes."""
    if isinstance(content.get("data"), list):
        return [
            _with_image(row, f"{row.get('image_id')}.jpg") if isinstance(row, dict) else row
            for row in content["data"]
        ]
    if isinstance(content.get("questions"), list):
        return _vqa_v2(content, path)
    if isinstance(content.get("images"), list):
        return _coco(content, path)
    if any(isinstance(row, dict) and "imageId" in row for row in content.values()):
        return [
            _with_image({**row, "id": name, "question_type": _gqa_type(row)},
                        f"{row.get('imageId')}.jpg") if isinstance(row, dict) else row
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
            f"{quoted(path)} holds questions of VQAv2, whose answers are published in a file of "
            f"their own: put {quoted(beside.name)} beside it."
        )
    annotations = _parsed(beside)
    listed = annotations.get("annotations") if isinstance(annotations, dict) else None
    if not isinstance(listed, list):
        raise UserError(
            f"{quoted(beside)} holds no list of annotations, so that the questions of "
            f"{quoted(path)} have no answers. Put the annotations that VQAv2 publishes there."
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
                "annotation": answer,
                "question_type": answer.get("answer_type"),
                "image": f"COCO_{subset}_{str(row.get('image_id')).zfill(12)}.jpg",
            }
        rows.append(row)
    return rows


def _coco(content: dict[str, Any], path: Path) -> list[Any]:
    """The images of the captions in ``content``, with their objects."""
    beside = path.with_name(path.name.replace("captions", "instances"))
    if beside == path or not os.path.isfile(beside):
        raise UserError(
            f"{quoted(path)} holds annotations of MS COCO. Name the file of its captions, and put "
            "the one of its instances beside it under the name in which 'captions' is 'instances'."
        )
    instances = _parsed(beside)
    return images_of(content, instances if isinstance(instances, dict) else {})
