"""One answered batch as a Parquet file, and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rcp.atomic_write import atomic
from rcp.conversations.sample import Unreadable
from rcp.errors import UserError
from rcp.evaluation.answers import Answer, AnsweredBatch, Places
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.quoting import plain

SUFFIX = ".parquet"

SCHEMA = pa.schema(
    [
        ("contestant", pa.int64()),
        ("index", pa.int64()),
        ("said", pa.string()),
        ("text", pa.int64()),
        ("visual", pa.int64()),
        ("layers", pa.list_(pa.int64())),
        ("kept", pa.list_(pa.list_(pa.int32()))),
        ("kv_bytes", pa.float64()),
        ("milliseconds", pa.float64()),
        ("image_index", pa.list_(pa.int64())),
        ("grid", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""A row is an :class:`~rcp.evaluation.answers.Answer` of the contestant of that number."""

CONTESTANTS, FAULTS = b"contestants", b"faults"
"""In the metadata: how many there are, and what could not be read."""


def write(batch: AnsweredBatch, path: Path) -> None:
    """The file appears whole or not at all; raises ``UserError`` where it cannot be written."""
    rows = [
        _row(number, answer) for number, own in enumerate(batch.answers) for answer in own
    ]
    faults = [[str(fault), fault.id, fault.row] for fault in batch.faults]
    metadata = {CONTESTANTS: str(len(batch.answers)), FAULTS: json.dumps(faults)}
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))
    with atomic(path) as unfinished:
        pq.write_table(table, unfinished)


def read(path: Path) -> AnsweredBatch:
    """What :func:`write` wrote; raises ``UserError`` for anything else."""
    try:
        table = pq.ParquetFile(path).read()
        if not table.schema.equals(SCHEMA):
            raise ValueError("it has other columns")
        metadata = table.schema.metadata
        answers: list[list[Answer]] = [[] for _ in range(int(metadata[CONTESTANTS]))]
        for row in table.to_pylist():
            answers[row["contestant"]].append(_answer(row))
        faults = [Unreadable(*fault) for fault in json.loads(metadata[FAULTS])]
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(
            f"'{path}' is damaged ({plain(error)}). Remove that file: its questions are then asked "
            "again."
        ) from error
    return AnsweredBatch(answers, faults)


def _row(contestant: int, answer: Answer) -> dict[str, Any]:
    tokens, places = answer.tokens, answer.places
    return {
        "contestant": contestant,
        "index": answer.index,
        "said": answer.said,
        "text": tokens.text,
        "visual": tokens.visual,
        "layers": tokens.layers,
        "kept": tokens.kept,
        "kv_bytes": answer.kv_bytes,
        "milliseconds": answer.milliseconds,
        "image_index": None if places is None else places.image_index,
        "grid": None if places is None else list(places.grid),
    }


def _answer(row: dict[str, Any]) -> Answer:
    kept = tuple(np.asarray(stage, np.int32) for stage in row["kept"])
    places = None
    if row["grid"] is not None:
        grid = np.asarray(row["grid"], np.float32).reshape(-1, 2)
        places = Places(np.asarray(row["image_index"], np.int64), grid)
    return Answer(
        index=row["index"],
        said=row["said"],
        tokens=Occupancy(row["text"], row["visual"], tuple(row["layers"]), kept),
        kv_bytes=row["kv_bytes"],
        milliseconds=row["milliseconds"],
        places=places,
    )
