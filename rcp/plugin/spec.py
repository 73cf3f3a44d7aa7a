"""All that rebuilds a plug-in, in plain values."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rcp.choosing.calibrated import Calibration
from rcp.choosing.learned_count import CountOptions
from rcp.choosing.schedule import Schedule
from rcp.plugin.lora import LoraSpec
from rcp.plugin.tower import TowerSpec

Selection = Literal["top_k", "threshold", "calibrated", "learned"]
PositionPolicy = Literal["keep", "repack"]
RepairedRows = Literal["answer", "text"]


@dataclass
class StageSpec:
    """One pruning stage.

    Args:
        layer: 0-based decoder layer before whose attention tokens are dropped.
        ratio: Share of the *original* visual tokens alive from here on, in [0, 1].
        method: Name of a registered pruner.
        arguments: Keyword arguments of that pruner, plain values.
    """

    layer: int
    ratio: float
    method: str = "rcp"
    arguments: dict[str, Any] = field(default_factory=dict)


OF_NOTHING = "uniform"
"""The method of a stage that keeps nothing: it needs no weights, and looks at nothing."""


def stages_of(schedule: Schedule, method: str, **arguments: Any) -> list[StageSpec]:
    """One ``method`` with the same ``arguments`` at every stage of ``schedule`` that keeps any.

    Where nothing is kept, nothing is to be chosen: there stands :data:`OF_NOTHING`.
    """
    return [
        StageSpec(layer, ratio, method, dict(arguments)) if ratio
        else StageSpec(layer, ratio, OF_NOTHING)
        for layer, ratio in zip(schedule.layers, schedule.ratios)
    ]


@dataclass
class RepairSpec:
    """The repair adapter.

    Args:
        layers: 0-based decoder layers whose output is repaired.
        method: Name of a registered repair adapter.
        arguments: Keyword arguments of that adapter, plain values.
        rows: "answer" repairs the rows that predict answer tokens, "text" every row that is no
            image (ablation).
    """

    layers: list[int]
    method: str = "film"
    arguments: dict[str, Any] = field(default_factory=dict)
    rows: RepairedRows = "answer"


@dataclass
class PluginSpec:
    """All that rebuilds a plug-in, in plain values.

    Args:
        stages: The pruning stages, by rising layer.
        repair: The repair adapter, or null for none.
        selection: "top_k" keeps fixed counts, "threshold" keeps z > 0, "calibrated" what lies
            within the cuts of its calibration, "learned" as many as a head says.
        position_policy: "keep" leaves survivors at their original positions; "repack" closes the
            gaps of what the first stage drops, which must stand before the decoder, at layer 0.
        lora: Low-rank adapters on the frozen decoder, or null for none.
        budgets: Lowest and highest mean kept share that the plug-in was trained for, where its
            budget is chosen at inference; null where it has the one of its stages only.
        calibration: What "calibrated" decides by; null with any other selection.
        count: The head that says how many under "learned"; null with any other selection.
        tower: What is dropped inside the vision tower already, or null for nothing. What it keeps
            enters the decoder, so that all stages lie behind layer 0.
    """

    stages: list[StageSpec]
    repair: RepairSpec | None = None
    selection: Selection = "top_k"
    position_policy: PositionPolicy = "keep"
    lora: LoraSpec | None = None
    budgets: list[float] | None = None
    calibration: Calibration | None = None
    count: CountOptions | None = None
    tower: TowerSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :func:`rcp.typed_values.from_plain` is the way back."""
        return asdict(self)
