"""What one forward saw."""

from dataclasses import dataclass, field

from torch import Tensor

from rcp.plan import KeepPlan


@dataclass
class Trace:
    """Filled by the forwards that run while it is open; the caller owns it.

    Each forward overwrites what the one before it left. ``kept``: per stage, the cumulative mask
    c (B, N), fp32, with gradient in soft mode; ``scores``: per stage z (B, N) at the tokens alive
    before it (soft mode); ``visual_valid`` (B, N) bool: which visual slots exist.
    ``answer_states``: output rows (R, D) of each repair layer at the answer-predicting positions,
    in (batch, position) order, after repair. ``answer_rows`` (B, T) bool.
    """

    plan: KeepPlan | None = None
    kept: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    visual_valid: Tensor | None = None
    answer_states: dict[int, Tensor] = field(default_factory=dict)
    answer_rows: Tensor | None = None

    def restart(self) -> None:
        """Forget the forward before."""
        self.__init__()  # type: ignore[misc]
