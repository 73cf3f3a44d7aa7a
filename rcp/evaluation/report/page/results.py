"""What an evaluation left behind: its rows, and its answers and times where they were kept."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from rcp.errors import UserError
from rcp.evaluation.report.rows import ResultRow, beside, read_rows
from rcp.evaluation.report.samples import SAMPLES, TIMES
from rcp.quoting import plain, quoted


@dataclass(frozen=True)
class Results:
    """One evaluation. ``about``: its command, versions, data, image folder and base, as recorded.

    ``answers`` and ``times`` are None where there is no file of them, as beside older rows.
    """

    name: str
    rows: list[ResultRow]
    answers: pa.Table | None
    times: pa.Table | None
    about: dict[str, Any]

    @property
    def full(self) -> ResultRow:
        """The full model's row."""
        return self.rows[0]

    @property
    def first(self) -> ResultRow:
        """The row of what was evaluated, if anything was beside the full model."""
        return self.rows[min(1, len(self.rows) - 1)]


def read_results(path: Path) -> Results:
    """``path`` as evaluate.py wrote it, and what it wrote beside.

    Raises ``UserError`` for a file that is damaged or no result.
    """
    rows = read_rows(path)
    answers = _table(beside(path, "samples.parquet"), SAMPLES)
    times = _table(beside(path, "times.parquet"), TIMES)
    recorded = {} if answers is None else answers.schema.metadata or {}
    about = {key.decode(): _value(value) for key, value in recorded.items()}
    return Results(str(path), rows, answers, times, about)


def _table(path: Path, schema: pa.Schema) -> pa.Table | None:
    if not os.path.exists(path):
        return None
    try:
        found = pa.parquet.read_table(path)
        kept = found.schema.metadata
        return found.select(schema.names).cast(schema).replace_schema_metadata(kept)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{quoted(path)} is not what evaluate.py writes beside its rows ({plain(error)}). "
            "Evaluate again, or move the file away for a report without it."
        ) from error


def _value(stored: bytes) -> Any:
    """A value of the metadata: JSON, or whatever text another writer put there."""
    text = stored.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
