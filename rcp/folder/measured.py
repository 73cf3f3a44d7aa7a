"""What an evaluation found, for the model card: the rows that evaluate.py writes, as a table."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

from rcp.errors import UserError
from rcp.folder.files import MEBIBYTE
from rcp.quoting import plain
from rcp.typed_values import from_plain

LARGEST = MEBIBYTE
"""Bytes that are read; ten rows have 10 KiB."""


@dataclass(frozen=True)
class Measured:
    """What the card says of a row; see :class:`rcp.evaluation.report.rows.ResultRow`."""

    method: str
    accuracy: float
    retained: float
    mean_tokens: float
    entering_tokens: float
    flops: float
    kv_bytes: float
    prefill_speedup: float
    n: int


def read_measured(file: Path) -> list[Measured]:
    """The rows in ``file``; raises ``UserError`` for anything but what evaluate.py writes."""
    try:
        if os.path.getsize(file) > LARGEST:
            raise ValueError(f"it has more than {LARGEST // MEBIBYTE} MiB")
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, list) or not values:
            raise ValueError("it is no list of rows")
        names = [field.name for field in fields(Measured)]
        return [
            from_plain(Measured, {name: row[name] for name in names if name in dict(row)})
            for row in values
        ]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{file}' is no evaluation: {plain(error)}. Give what evaluate.py --output wrote."
        ) from None


def table(rows: list[Measured]) -> str:
    """``rows`` in Markdown."""
    lines = ["| method | accuracy % | retained % | mean tokens | entering | GFLOPs | KV KiB | "
             "prefill speed-up |", "|---|" + "---:|" * 7]
    for row in rows:
        method = plain(row.method).replace("|", "\\|")
        lines.append(
            f"| {method} | {100 * row.accuracy:.1f} | {100 * row.retained:.1f} | "
            f"{row.mean_tokens:.1f} | {row.entering_tokens:.1f} | {row.flops / 1e9:.3f} | "
            f"{row.kv_bytes / 1024:.1f} | {row.prefill_speedup:.2f}x |"
        )
    return "\n".join(lines)
