"""Every answer as a row, in Parquet files beside the rows of the methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rcp.atomic_write import atomic
from rcp.conversations import PLACEHOLDER
from rcp.conversations.sample import ImageSource
from rcp.evaluation.metrics.tally import Answered, Tally

KEY = [("contestant", pa.string()), ("seed", pa.int64()), ("index", pa.int64())]

SAMPLES = pa.schema(
    [
        *KEY,
        ("id", pa.string()),
        ("image", pa.list_(pa.string())),
        ("question", pa.string()),
        ("type", pa.string()),
        ("references", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("score", pa.float64()),
        ("visual_tokens", pa.int64()),
        ("layers", pa.list_(pa.int64())),
        ("kept", pa.list_(pa.list_(pa.int64()))),
        ("places", pa.list_(pa.list_(pa.float64()))),
        ("image_index", pa.list_(pa.int64())),
    ]
)
"""``index``: the sample's number in the data, rows without a sound text not counted. ``image``:
paths from the image folder, empty for an image that is no file. ``references``: each accepted
answer once, most often one. ``answer``: as generated.
``score``: from 0 to 1. ``visual_tokens``: before any is dropped; of these ``kept`` numbers those
that are alive from each of ``layers`` on. ``places`` (row, column) and ``image_index`` of each are
with the full model. The fields are promised; a version that changes one says so.
"""

TIMES = pa.schema([*KEY, ("milliseconds", pa.float64())])
"""``milliseconds``: prefill and decoding of the batch, over the samples in it."""


def write_samples(
    answered: Sequence[Answered], folder: Path, metadata: Mapping[str, str], path: Path
) -> None:
    """All answers, contestant by contestant as given, each in order of the data (``SAMPLES``).

    ``folder`` is where paths of images start; ``metadata`` goes into the schema. The file appears
    whole or not at all, and is the same to the byte for the same answers.
    """
    with _writer(path, SAMPLES, metadata) as writer:
        for one in answered:
            writer.write_table(_table(one, SAMPLES, lambda tally: _columns(tally, folder)))


def write_times(answered: Sequence[Answered], metadata: Mapping[str, str], path: Path) -> None:
    """How long each answer took (``TIMES``); apart, because no two runs agree in it."""
    with _writer(path, TIMES, metadata) as writer:
        for one in answered:
            writer.write_table(_table(one, TIMES, _times))


@contextmanager
def _writer(
    path: Path, schema: pa.Schema, metadata: Mapping[str, str]
) -> Iterator[pq.ParquetWriter]:
    with atomic(path) as unfinished:
        with pq.ParquetWriter(unfinished, schema.with_metadata(dict(metadata))) as writer:
            yield writer


def _table(
    answered: Answered, schema: pa.Schema, columns: Callable[[Tally], dict[str, Any]]
) -> pa.Table:
    tally = answered.tally
    key = {
        "contestant": [answered.method] * tally.samples,
        "seed": [answered.seed] * tally.samples,
        "index": [answer.index for answer in tally.answers],
    }
    return pa.table(key | columns(tally), schema)


def _times(tally: Tally) -> dict[str, Any]:
    return {"milliseconds": [answer.milliseconds for answer in tally.answers]}


def _columns(tally: Tally, folder: Path) -> dict[str, Any]:
    samples, answers = tally.asked, tally.answers
    places = [answer.places for answer in answers]
    return {
        "id": [sample.id for sample in samples],
        "image": [[_relative(image, folder) for image in sample.images] for sample in samples],
        "question": [sample.question.replace(PLACEHOLDER, "").strip() for sample in samples],
        "type": [sample.question_type for sample in samples],
        "references": [tally.scoring.references(sample) for sample in samples],
        "answer": [answer.said for answer in answers],
        "score": tally.scores,
        "visual_tokens": [answer.tokens.visual for answer in answers],
        "layers": [answer.tokens.layers for answer in answers],
        "kept": [answer.tokens.kept for answer in answers],
        "places": [None if here is None else list(here.grid) for here in places],
        "image_index": [None if here is None else here.image_index for here in places],
    }


def _relative(image: ImageSource, folder: Path) -> str:
    if not isinstance(image, Path):
        return ""
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image)
