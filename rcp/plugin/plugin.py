"""What is trained and saved: pruners by layer, the repair adapter, the schedule."""

import copy
from dataclasses import replace
from math import isclose
from typing import Any

from torch import nn

from rcp.backbones import backbone_for
from rcp.backbones.before_decoder import refuse_stages_inside
from rcp.base_model.identity import BaseIdentity
from rcp.choosing.calibrated import Calibration, Cut
from rcp.choosing.learned_count import CountHead, Counting
from rcp.choosing.schedule import Schedule
from rcp.choosing.view import LOOKS_BACK
from rcp.errors import UserError
from rcp.plugin.lora import Lora
from rcp.plugin.on_hub import OnHub
from rcp.plugin.spec import PluginSpec
from rcp.plugin.tower import TowerSurvivors
from rcp.pruners import PRUNERS, Pruner
from rcp.quoting import plain, quoted
from rcp.repair import REPAIRS, RepairAdapter
from rcp.typed_values import check_arguments, from_plain

SAME_BUDGET = 0.005
"""Relative: two budgets that differ by less are one, written with few digits."""


class Plugin(OnHub, nn.Module):
    """Pruners, repair adapter and schedule for one base model; knows nothing of Hugging Face.

    ``hidden_size`` is the decoder's width D, ``num_layers`` its depth. ``base`` identifies the
    model it was made for (None: any model of these sizes); ``training_summary`` is free-form
    plain data that the exported folder carries. Raises ``UserError`` for a spec that cannot be.
    """

    def __init__(self, spec: PluginSpec, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        from_plain(PluginSpec, spec.to_dict())  # refuses what a spec made in code may hold
        for what, size in (("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise UserError(f"{what} is {size}: give the decoder's own, which is at least 1.")
        self.spec = spec
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.base: BaseIdentity | None = None
        self.training_summary: dict[str, Any] = {}
        stages = [(stage.layer, stage.ratio) for stage in spec.stages]
        if spec.tower is not None:
            spec.tower.check([stage.layer for stage in spec.stages])
            stages.insert(0, (0, spec.tower.ratio))
        self.schedule = Schedule(
            layers=tuple(layer for layer, _ in stages),
            ratios=tuple(ratio for _, ratio in stages),
            num_layers=num_layers,
        )
        if spec.position_policy == "repack" and self.schedule.layers[:1] != (0,):
            raise UserError(
                f"position_policy 'repack' closes the gaps of tokens that no layer has seen, so "
                f"the first stage must be at layer 0; the stages here are at "
                f"{list(self.schedule.layers)}. Move the first one, or use position_policy 'keep'."
            )
        self.made_with = self.schedule  # tells how shares fall, whatever is chosen later
        self.pruners = nn.ModuleDict(
            {
                str(stage.layer): _build(PRUNERS, stage.method, (hidden_size,), stage.arguments)
                for stage in spec.stages
            }
        )
        self.counters = nn.ModuleDict()
        if spec.count is not None:
            spec.count.check(len(spec.stages))
            self.counters.update({
                str(stage.layer): CountHead(hidden_size, spec.count.inner)
                for stage in spec.stages if stage.ratio
            })
        if spec.tower is not None:
            self.pruners["0"] = TowerSurvivors(hidden_size)
        self._check_first_layer()
        self.repair: RepairAdapter | None = None
        if spec.repair is not None:
            self._check_repair_layers(spec.repair.layers)
            self.repair = _build(
                REPAIRS,
                spec.repair.method,
                (hidden_size, spec.repair.layers),
                spec.repair.arguments,
            )
        self.lora = Lora(spec.lora) if spec.lora is not None else None
        if spec.tower is not None:
            readers = [self.pruner(layer) for layer in self.schedule.layers]
            spec.tower.check_beside([*readers, *([] if self.repair is None else [self.repair])])
        self._check_selection()
        if spec.budgets is not None:
            self._check_budgets(spec.budgets)

    @classmethod
    def for_model(cls, spec: PluginSpec, model: nn.Module) -> "Plugin":
        """A fresh plug-in of ``model``'s sizes, bound to its identity, on its device, in fp32."""
        backbone = backbone_for(model)
        refuse_stages_inside(backbone, [stage.layer for stage in spec.stages])
        if spec.tower is not None:
            spec.tower.check_on(backbone)
        spec = fitted(spec, model)
        plugin = cls(spec, backbone.hidden_size, len(backbone.layers))
        plugin.base = BaseIdentity.of(backbone)
        return plugin.to(next(model.parameters()).device)

    @property
    def mean_ratio(self) -> float:
        """Kept share of the visual tokens, mean over layers."""
        return self.schedule.mean_ratio

    def schedule_at(self, mean_ratio: float) -> Schedule:
        """The schedule that keeps the share ``mean_ratio`` of the visual tokens, layer mean.

        The shares of the stages are those of :func:`rcp.choosing.schedule.schedule_for`, falling as
        its own do. Raises ``UserError`` outside the range the plug-in was trained for; one in which
        nothing is trained has any. [ours]
        """
        by_sample = self.spec.calibration is not None or self.spec.count is not None
        if by_sample and not isclose(mean_ratio, self.mean_ratio, rel_tol=SAME_BUDGET):
            what = "cuts" if self.spec.count is None else "counts"
            raise UserError(
                f"A budget of {mean_ratio:.2%} of the visual tokens cannot be chosen: the {what} "
                f"of this plug-in are calibrated for {self.mean_ratio:.2%}, mean over layers. "
                f"Calibrate the plug-in that it was made from at that budget: `rcp calibrate`."
            )
        if next(self.parameters(), None) is None:
            return self._fallen(mean_ratio)
        low, high = self.spec.budgets or (self.mean_ratio, self.mean_ratio)
        if not low * (1 - SAME_BUDGET) <= mean_ratio <= high * (1 + SAME_BUDGET):
            trained = (
                f"budgets of {low:.2%} to {high:.2%}" if self.spec.budgets is not None
                else f"the one budget of {self.mean_ratio:.2%}"
            )
            raise UserError(
                f"A budget of {mean_ratio:.2%} of the visual tokens, mean over layers, is not what "
                f"this plug-in was trained for, which is {trained}. Choose one it was trained for, "
                f"or train another with plugin.budgets around it."
            )
        return self.schedule if self.spec.budgets is None else self._fallen(mean_ratio)

    def at_budget(self, mean_ratio: float) -> "Plugin":
        """The same weights under :meth:`schedule_at`, which says what is raised."""
        return self.under(self.schedule_at(mean_ratio))

    def keeping(self, mean_ratio: float) -> "Plugin":
        """The same weights with another budget, whatever they were trained for."""
        return self.under(self._fallen(mean_ratio))

    def under(self, schedule: Schedule) -> "Plugin":
        """The same weights with the ratios of ``schedule``, whose layers are this one's."""
        if schedule == self.schedule:
            return self
        stages = [
            replace(stage, ratio=ratio) for stage, ratio in zip(self.spec.stages, schedule.ratios)
        ]
        other = copy.copy(self)  # shares all weights
        other.schedule = schedule
        other.spec = replace(self.spec, stages=stages)
        return other

    def calibrated(self, calibration: Calibration) -> "Plugin":
        """The same weights, keeping what lies within the cuts of ``calibration``."""
        other = copy.copy(self)  # shares all weights
        other.spec = replace(self.spec, selection="calibrated", calibration=calibration)
        other._check_selection()
        return other

    def levelled(self, levels: list[float]) -> "Plugin":
        """The same weights, a count head's multiples lowered by these ``levels``, one a stage."""
        assert self.spec.count is not None
        other = copy.copy(self)  # shares all weights
        other.spec = replace(self.spec, count=replace(self.spec.count, levels=levels))
        return other

    def selection(self, stage: int) -> str | Cut | Counting:
        """What decides at the ``stage`` of that number: "top_k", "threshold", a cut, or what a
        count head has learned.

        Of nothing, which a ratio of 0 keeps, there is nothing to decide.
        """
        if self.schedule.ratios[stage] == 0:
            return "top_k"
        if self.spec.calibration is not None:
            return self.spec.calibration.at(stage)
        if (count := self.spec.count) is not None:
            head = self.counters[str(self.schedule.layers[stage])]
            assert isinstance(head, CountHead)
            level = 0.0 if count.levels is None else count.levels[stage]
            return Counting(head, level, count.fewest, count.most)
        return self.spec.selection

    def fixes_counts(self, stage: int) -> bool:
        """Whether ``stage`` is sure to leave of each sample what :attr:`schedule` says.

        A vision tower rounds what it keeps of each image, a schedule what is kept of a sample.
        """
        layers = self.schedule.layers[: stage + 1]
        sure = not any(self.pruner(layer).may_drop_all for layer in layers)
        return sure and self.spec.selection == "top_k" and self.spec.tower is None

    def pruner(self, layer: int) -> Pruner:
        """The pruner of the stage at ``layer``."""
        pruner = self.pruners[str(layer)]
        assert isinstance(pruner, Pruner)
        return pruner

    def _fallen(self, mean_ratio: float) -> Schedule:
        """What it was made with, at that mean; raises ``UserError`` for what no schedule can be."""
        if self.spec.tower is not None and not isclose(
            mean_ratio, self.mean_ratio, rel_tol=SAME_BUDGET
        ):
            raise UserError(
                f"A budget of {mean_ratio:.2%} of the visual tokens cannot be chosen: what the "
                f"vision tower keeps of them is fixed by tower.keep, and so is the budget of this "
                f"plug-in, {self.mean_ratio:.2%}, mean over layers. Make one with another "
                f"tower.keep."
            )
        return self.made_with.at(mean_ratio)

    def _check_first_layer(self) -> None:
        stages = [stage for stage in self.spec.stages if stage.layer == 0]
        if any(self.pruner(stage.layer).needs & LOOKS_BACK for stage in stages):
            raise UserError(
                f"The pruner '{stages[0].method}' reads what the layer before its own computed, "
                f"and layer 0 has none before it. Put its stage at layer 1 or later."
            )

    def _check_repair_layers(self, layers: list[int]) -> None:
        if not self.schedule.layers:
            raise UserError(
                "A repair adapter without a pruning stage has nothing to repair. Add a stage, or "
                "set repair to null."
            )
        if not layers:
            raise UserError(
                "A repair adapter without layers repairs nothing. Name decoder layers in "
                "repair.layers, or set repair to null."
            )
        if len(set(layers)) < len(layers):
            raise UserError(f"repair.layers {layers} names a layer twice. Name each once.")
        first = self.schedule.layers[0]
        for layer in layers:
            if not first <= layer < self.num_layers:
                raise UserError(
                    f"Repair layer {layer} is of no use: it must lie between the first pruning "
                    f"layer and the last decoder layer, {first} to {self.num_layers - 1}. Move it."
                )

    def _check_budgets(self, budgets: list[float]) -> None:
        if len(budgets) != 2 or not 0 < budgets[0] < budgets[1] <= 1:
            raise UserError(
                f"budgets is {budgets}: give two shares of the visual tokens, mean over layers, "
                f"the lower first, both above 0 and at most 1."
            )
        if not self.schedule.layers:
            raise UserError(
                "A plug-in without a pruning stage keeps everything, so that it has no budgets to "
                "choose from. Add a stage, or leave out budgets."
            )
        if self.spec.selection != "top_k":
            raise UserError(
                f"A plug-in with selection '{self.spec.selection}' keeps what its scores say, so "
                f"that no budget can be chosen afterwards. Use selection: top_k, or leave out "
                f"budgets."
            )
        for mean_ratio in budgets:
            self.schedule.at(mean_ratio)  # or says why not
        self.at_budget(self.mean_ratio)  # its own must be among them

    def _check_selection(self) -> None:
        selection, calibration = self.spec.selection, self.spec.calibration
        if (selection == "calibrated") != (calibration is not None):
            raise UserError(
                f"selection '{selection}' and calibration {quoted(calibration)} do not go together:"
                f" the one needs the other. `rcp calibrate` writes a plug-in that has both; with "
                f"any other selection, leave calibration out."
            )
        if calibration is not None:
            calibration.check(len(self.spec.stages))
        if (selection == "learned") != (self.spec.count is not None):
            raise UserError(
                f"selection '{selection}' and count {quoted(self.spec.count)} do not go together: "
                f"the one needs the other. Give count: {{}} with selection: learned, and null with "
                f"any other."
            )
        if self.spec.tower is not None and (selection != "top_k" or self.spec.budgets is not None):
            named = "budgets" if self.spec.budgets is not None else f"selection '{selection}'"
            raise UserError(
                f"{named} and tower do not go together: inside the vision tower each block keeps "
                f"a fixed share. Use selection: top_k without budgets, or leave tower out."
            )
        for stage in self.spec.stages:
            if selection == "top_k" or stage.ratio == 0:
                continue
            pruner = self.pruner(stage.layer)
            if selection == "learned" and not pruner.learned:
                raise UserError(
                    f"The pruner '{stage.method}' at layer {stage.layer} does not learn, and how "
                    f"many tokens stay is learned beside which of them. Use selection: top_k, or a "
                    f"learned pruner."
                )
            if selection == "threshold" and not pruner.learned:
                learned = [name for name in PRUNERS.names() if PRUNERS.get(name).learned]
                raise UserError(
                    f"The pruner '{stage.method}' at layer {stage.layer} has no learned zero, so "
                    f"threshold mode means nothing for it. Use selection: top_k, or one of "
                    f"{', '.join(learned)}."
                )
            if selection == "calibrated" and not pruner.ranks:
                raise UserError(
                    f"The pruner '{stage.method}' at layer {stage.layer} selects tokens without "
                    f"scoring them one by one, so that there is nothing to cut. Use selection: "
                    f"top_k, or a pruner that scores."
                )


def fitted(spec: PluginSpec, model: nn.Module) -> PluginSpec:
    """``spec`` with the modules of ``model`` that its low-rank adapters are for, and what its
    repair must know of the vision tower's sizes."""
    backbone = backbone_for(model)
    if spec.repair is not None and "encoder_levels" in REPAIRS.get(spec.repair.method).needs:
        backbone.check_fact("encoder_levels")
        assert backbone.tower is not None
        features = backbone.tower.level_features
        arguments = {"features": features, **spec.repair.arguments}
        if arguments["features"] != features:
            raise UserError(
                f"repair.arguments.features is {quoted(arguments['features'])}, but the encoder of "
                f"this model gives {features} numbers of a token. Leave it out: it is filled in."
            )
        spec = replace(spec, repair=replace(spec.repair, arguments=arguments))
    if spec.lora is None:
        return spec
    names = backbone.model.named_modules()
    prefix = next(name for name, module in names if module is backbone.layers)
    return replace(spec, lora=spec.lora.for_layers(backbone.layers, prefix))


def _build(registry: Any, name: str, sizes: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    cls = registry.get(name)
    check_arguments(cls, arguments)
    try:
        return cls(*sizes, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"The {registry.kind} {quoted(name)} does not take the arguments {quoted(arguments)}: "
            f"{plain(error)}. Correct them in the configuration."
        ) from None
