"""What `python -m rcp diagnose` has measured: read back, and as tables."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rcp.errors import UserError
from rcp.evaluation.report.tables import Cells
from rcp.quoting import plain, quoted
from rcp.typed_values import from_plain

GAPS = ("mean_gap", "variance_gap", "w2")


@dataclass(frozen=True)
class Gaps:
    """How far a layer's answer rows are from the full model's, as
    :class:`rcp.evaluation.metrics.shift.DistributionShift` has it."""

    mean_gap: float
    variance_gap: float
    w2: float


@dataclass(frozen=True)
class LayerShift:
    """The gaps at one layer before and after repair, and how they go with lost answers."""

    layer: int
    before: Gaps
    after: Gaps
    correlation_with_loss: float


@dataclass(frozen=True)
class StageSinks:
    """Attention sinks at one stage, as shares."""

    layer: int
    survivors_that_are_sinks: float
    sinks_that_survive: float


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`rcp.evaluation.studies.diagnosis.diagnose` returns, field by field."""

    layers: list[LayerShift]
    stages: list[StageSinks]
    samples: int
    sink_multiple: float


def read_diagnosis(path: Path) -> dict[str, Any]:
    """The plain values of a :class:`Diagnosis` that `python -m rcp diagnose` wrote to ``path``.

    Raises ``UserError`` for what it did not write, and where a gap is not finite.
    """
    try:
        return asdict(from_plain(Diagnosis, json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:  # UserError is a ValueError
        raise UserError(
            f"{quoted(path)} cannot be read as a diagnosis ({plain(error)}). Name the file that "
            "python -m rcp diagnose wrote with --output."
        ) from error


def by_layer(values: dict[str, Any]) -> Cells:
    """The gaps of each layer, before and after repair."""
    header = ["layer", *GAPS, *(f"{gap} repaired" for gap in GAPS), "correlation with loss"]
    return [header] + [
        [
            str(line["layer"]),
            *(f"{line[when][gap]:.4f}" for when in ("before", "after") for gap in GAPS),
            f"{line['correlation_with_loss']:.2f}",
        ]
        for line in values["layers"]
    ]


def by_stage(values: dict[str, Any]) -> Cells:
    """The sinks of each stage, in percent."""
    return [["stage at layer", "survivors that are sinks %", "sinks that survive %"]] + [
        [
            str(line["layer"]),
            f"{100 * line['survivors_that_are_sinks']:.1f}",
            f"{100 * line['sinks_that_survive']:.1f}",
        ]
        for line in values["stages"]
    ]
