"""What one forward saw."""

from dataclasses import dataclass, field

from torch import Tensor

from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.view import View


@dataclass
class Trace:
    """Filled by the forwards that run while it is open; the caller owns it.

    Each forward overwrites what the one before it left. ``kept``: per stage, the cumulative mask
    c (B, N), fp32, with gradient in soft mode; ``scores``: per stage z (B, N) at the tokens alive
    before it (soft mode); ``visual_valid`` (B, N) bool: which visual slots exist. ``drawn``: by
    layer, the order in which a sampling has drawn among these tokens, as
    :func:`rcp.objectives.plackett_luce.log_probability` reads it; ``multiples`` likewise how many,
    (B,) fp32, where that is learned (:mod:`rcp.choosing.learned_count`).
    ``answer_states``: output rows (R, D) of each of ``answer_layers`` at the answer-predicting
    positions, in (batch, position) order, after repair.

    Record mode also notes what the caller asked for. ``question_attention``: for each of
    ``attention_layers``, what the frozen model attends from its question rows to each visual
    token, mean over heads and rows, (B, N) fp32. ``views``: for each of ``view_layers``, what the
    stage there would see if nothing were dropped, in the other modes what it does see; a batch
    without images has one dead slot then.
    ``biases``: for each of ``bias_layers`` a leaf (B, 1, T, T) of zeros that was added to its
    attention logits; ``visual_columns`` (B, N) long. ``entered``, if ``enters`` says so: the
    decoder's input (B, T, D) as a leaf that wants a gradient.
    """

    attention_layers: tuple[int, ...] = ()
    view_layers: tuple[int, ...] = ()
    answer_layers: tuple[int, ...] = ()
    bias_layers: tuple[int, ...] = ()
    enters: bool = False
    plan: KeepPlan | None = None
    kept: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    drawn: dict[int, Tensor] = field(default_factory=dict)
    multiples: dict[int, Tensor] = field(default_factory=dict)
    visual_valid: Tensor | None = None
    answer_states: dict[int, Tensor] = field(default_factory=dict)
    question_attention: dict[int, Tensor] = field(default_factory=dict)
    views: dict[int, View] = field(default_factory=dict)
    biases: dict[int, Tensor] = field(default_factory=dict)
    visual_columns: Tensor | None = None
    entered: Tensor | None = None

    def restart(self) -> None:
        """Forget the forward before."""
        self.__init__(  # type: ignore[misc]
            self.attention_layers,
            self.view_layers,
            self.answer_layers,
            self.bias_layers,
            self.enters,
        )
