"""What a user may say about a run, and how it becomes a plug-in's specification."""

import math
from dataclasses import dataclass, field
from typing import Any

from rcp.backbones import Backbone
from rcp.choosing.learned_count import CountOptions
from rcp.choosing.schedule import mean_ratio_of, schedule_for
from rcp.errors import UserError
from rcp.objectives.losses import MomentForm
from rcp.plugin import PluginSpec, RepairSpec, StageSpec, TowerSpec, stages_of
from rcp.plugin.lora import LoraSpec
from rcp.plugin.spec import PositionPolicy, Selection


@dataclass
class PluginOptions:
    """The plug-in to train: either ``stages``, or ``budget`` and ``layers``.

    Attributes:
        stages: the pruning stages one by one, each with its layer and cumulative keep ratio
        budget: visual tokens kept, mean over the decoder's layers; below 1 it is a share of them
        layers: 0-based decoder layers that share the budget, each a pruning stage
        wiped_from: with a budget, the layer from which on no visual token is left, so that those
            before have more ("rcp horizon" finds one that costs nothing); null for none
        method: name of the registered pruner used where the budget describes the stages
        arguments: keyword arguments of that pruner
        repair: the repair adapter, or null for none
        lora: low-rank adapters on the frozen decoder, beside or instead of the repair adapter, or
            null for none
        selection: "top_k" keeps fixed counts, "threshold" the tokens that score above zero,
            "learned" as many as a head says, which learns it by model.policy
        position_policy: "keep" leaves positions alone, "repack" closes gaps left at layer 0
        budgets: the lowest and the highest budget of a plug-in whose budget is chosen at
            inference: each step draws one between them, log-uniformly; null to train for the one
            of the stages only
        count: the head that says how many tokens a sample keeps, with selection "learned"; null
            with any other
        tower: patches dropped inside the vision tower by its own attention, in these blocks and
            of these each but a share, or null for none; it is not trained, and all stages then
            lie behind layer 0
    """

    stages: list[StageSpec] | None = None
    budget: float | None = None
    layers: list[int] | None = None
    wiped_from: int | None = None
    method: str = "rcp"
    arguments: dict[str, Any] = field(default_factory=dict)
    repair: RepairSpec | None = None
    lora: LoraSpec | None = None
    selection: Selection = "top_k"
    position_policy: PositionPolicy = "keep"
    budgets: list[float] | None = None
    count: CountOptions | None = None
    tower: TowerSpec | None = None

    def spec_for(self, backbone: Backbone) -> PluginSpec:
        """The specification for a model with these facts; refuses what cannot be."""
        by_budget = self.budget is not None and bool(self.layers)
        if (self.stages is None) != by_budget or (self.budget is None) != (self.layers is None):
            given = [n for n in ("stages", "budget", "layers") if getattr(self, n) is not None]
            raise UserError(
                f"The pruning stages are described by {' and '.join(given) or 'nothing'}. Give "
                "either plugin.stages (layer and ratio of each), or both plugin.budget and "
                "plugin.layers (at least one layer)."
            )
        if self.tower is not None and self.stages is None:
            raise UserError(
                "plugin.tower keeps a share of its own, so that plugin.budget leaves open what the "
                "stages keep. Give plugin.stages; a list without any for the tower alone."
            )
        if self.stages is not None and self.wiped_from is not None:
            raise UserError(
                f"plugin.wiped_from is {self.wiped_from}, but plugin.stages says itself what each "
                "stage keeps. Add a stage there with ratio 0, or give plugin.budget and "
                "plugin.layers."
            )
        stages = self.stages if self.stages is not None else self._stages_by_budget(backbone)
        budgets = self.budgets and [mean_ratio_of(b, backbone.visual_tokens) for b in self.budgets]
        return PluginSpec(
            stages=stages,
            repair=self.repair,
            selection=self.selection,
            position_policy=self.position_policy,
            lora=self.lora,
            budgets=budgets,
            count=self.count,
            tower=self.tower,
        )

    def _stages_by_budget(self, backbone: Backbone) -> list[StageSpec]:
        assert self.budget is not None and self.layers is not None
        layers, depth = tuple(self.layers), len(backbone.layers)
        mean_ratio = mean_ratio_of(self.budget, backbone.visual_tokens)
        schedule = schedule_for(mean_ratio, layers, depth, wiped_from=self.wiped_from)
        return stages_of(schedule, self.method, **self.arguments)


@dataclass
class LossOptions:
    """Weights and forms of the loss terms; the weights are the paper's. [draft]

    Attributes:
        task: weight of the cross-entropy on answer tokens
        repair: weight of the gap between student and teacher statistics at the repair layers
        budget: weight of the distance to the token budget; threshold selection only, as with
            top_k the budget is met by construction
        distillation: weight of the KL divergence to the teacher's answers, 0 for none
        variance: weight of the variance gap within the repair term
        normalised: repair gap in units of the teacher's own spread
        form: "moments" compares variances, "w2" standard deviations
    """

    task: float = 1.5
    repair: float = 3.0
    budget: float = 200.0
    distillation: float = 0.0
    variance: float = 3.0
    normalised: bool = True
    form: MomentForm = "moments"

    def __post_init__(self) -> None:
        for name in ("task", "repair", "budget", "distillation", "variance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(
                    f"loss.{name} is {getattr(self, name)}, but it is a weight: give 0 or more."
                )


@dataclass
class OptimizerOptions:
    """AdamW on the plug-in's parameters. [draft]

    Attributes:
        learning_rate: the highest learning rate, reached after the warm-up
        weight_decay: decoupled weight decay
        warmup: share of the steps over which the learning rate rises from 0
        floor: share of the learning rate that is left at the last step of the cosine
        pruners: the pruners' learning rate as a multiple of it, end to end; 0 freezes them there,
            without noise or dropout, where a guide has taught them and only the repair has
            still to learn. While an online guide teaches, it counts for the others alone
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    floor: float = 0.1
    pruners: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"optimizer.learning_rate is {self.learning_rate}: give a number above 0."
            )
        for name in ("warmup", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"optimizer.{name} is {getattr(self, name)}, but it is a share: give a number "
                    "from 0 to 1."
                )
        for name in ("weight_decay", "pruners"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(
                    f"optimizer.{name} is {getattr(self, name)}: give a number of at least 0."
                )
