"""The samples that are shown with their images, and which of their tokens each contestant keeps."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rcp.errors import UserError
from rcp.evaluation.report.page.answers import Pair, first_seed, pairs
from rcp.evaluation.report.page.pictures import data_uri
from rcp.evaluation.report.page.results import Results

CHANGED, DRAWN, SEED = 40, 20, 0
"""How many samples with a changed answer are shown, and how many are drawn from the others."""

IMAGES = 8
"""Images of one sample that are shown; a video can have hundreds of frames."""

SEEN = ["index", "image", "visual_tokens", "places", "image_index"]
KEPT = ["index", "answer", "score", "layers", "kept"]


def chosen(found: Sequence[Pair]) -> list[Pair]:
    """The first ``CHANGED`` pairs that have changed, and ``DRAWN`` of all that have not.

    The draw is the same each time.
    """
    changed = [pair for pair in found if pair.changed][:CHANGED]
    others = [pair for pair in found if not pair.changed]
    drawn = random.Random(SEED).sample(others, min(DRAWN, len(others)))
    return changed + sorted(drawn, key=lambda pair: pair.index)


def gallery(results: Results) -> dict[str, Any] | None:
    """Plain values for the page; None where no answers were kept that can be compared.

    ``samples``: what is shown, each with the number of its grid. ``images``: those of each sample
    as ``data:`` URIs, None for one that cannot be read. ``grids``: for each image the
    ``y`` and ``x`` of its tokens' centres in [-1, 1], their ``height`` and ``width`` there, and
    which of the sample's ``tokens`` they are. ``contestants``: of each one the ``layers`` of a
    sample's stages and, token by token, how many stages it ``survived``.
    """
    answers = results.answers
    if answers is None or results.first is results.full:
        return None
    full, first = results.full.method, results.first.method
    found = pairs(answers, full, first)
    if not found:
        return None
    shown = chosen(found)
    indices = [pair.index for pair in shown]
    seen = {line["index"]: line for line in first_seed(answers, full, SEEN, indices)}
    grids: list[list[dict[str, Any]]] = []
    return {
        "samples": [_sample(pair, seen[pair.index], grids) for pair in shown],
        "images": [_images(seen[pair.index], results.about) for pair in shown],
        "grids": grids,
        "contestants": [
            _kept(answers, row.method, seen, indices) for row in results.rows if row.method != full
        ],
        "changed": sum(pair.changed for pair in found),
        "changed_shown": sum(pair.changed for pair in shown),
        "answered": len(found),
        "seed": SEED,
    }


def _sample(
    pair: Pair, line: dict[str, Any], grids: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    grid = _grid(line)
    if grid not in grids:
        grids.append(grid)
    return {
        "id": pair.id,
        "question": pair.question,
        "type": pair.type,
        "references": pair.references,
        "full": pair.full,
        "full_score": pair.full_score,
        "more_images": max(0, len(line["image"] or []) - IMAGES),
        "tokens": line["visual_tokens"] or 0,
        "grid": grids.index(grid),
    }


def _images(line: dict[str, Any], about: dict[str, Any]) -> list[str | None]:
    folder = Path(str(about.get("image_folder") or "."))
    crop = about.get("center_crop") is True
    return [data_uri(folder / (path or ""), crop) for path in (line["image"] or [])[:IMAGES]]


def _grid(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the tokens of the first images lie; those without a place lie nowhere."""
    places, index = line["places"] or [], line["image_index"] or []
    tokens = line["visual_tokens"] if places else len(index)
    whole = all(place is not None and len(place) == 2 and None not in place for place in places)
    if not whole or None in index or not len(places) == len(index) == tokens:
        raise UserError(
            f"The sample of index {line['index']} has {tokens} visual tokens, {len(places)} places "
            f"and {len(index)} image numbers, but it must have a row and a column, and an image, "
            "of each token. Evaluate again."
        )
    found: dict[int, dict[str, Any]] = {}
    for token, ((y, x), image) in enumerate(zip(places, index)):
        if math.isfinite(y) and math.isfinite(x):
            held = found.setdefault(image, {"tokens": [], "y": [], "x": []})
            held["tokens"].append(token)
            held["y"].append(round(y, 4))
            held["x"].append(round(x, 4))
    nothing: dict[str, Any] = {"tokens": [], "y": [], "x": []}
    last = min(max(found, default=-1), IMAGES - 1)
    grids = [found.get(image, nothing) for image in range(last + 1)]
    return [one | {"height": spacing(one["y"]), "width": spacing(one["x"])} for one in grids]


def spacing(centres: Sequence[float]) -> float:
    """How wide a token is whose neighbours' ``centres`` lie on an image from -1 to 1.

    The finest distance there is; the whole image where all are in one line.
    """
    lines = sorted(set(centres))
    steps = [after - before for before, after in zip(lines, lines[1:]) if after - before > 1e-3]
    return round(min(steps, default=2.0), 4)


def _kept(
    answers: pa.Table, contestant: str, seen: dict[int, dict[str, Any]], indices: list[int]
) -> dict[str, Any]:
    lines = {line["index"]: line for line in first_seed(answers, contestant, KEPT, indices)}
    return {
        "name": contestant,
        "answers": [
            None
            if (line := lines.get(index)) is None
            else {
                "answer": line["answer"] or "",
                "score": line["score"] or 0.0,
                "layers": line["layers"] or [],
                "survived": _survived(line, seen[index]["visual_tokens"] or 0, contestant),
            }
            for index in indices
        ],
    }


def _survived(line: dict[str, Any], tokens: int, contestant: str) -> list[int]:
    """How many stages each token survives; what is dropped does not come back."""
    stages = line["kept"] or []
    found = [0] * (tokens if stages else 0)
    for stage, kept in enumerate(stages, start=1):
        for token in kept or ():
            if token is None or not 0 <= token < tokens:
                raise UserError(
                    f"'{contestant}' keeps the visual token {token} of the sample of index "
                    f"{line['index']}, which has {tokens}. Evaluate again."
                )
            found[token] = stage
    return found
