"""The phases of a training: learning from the teacher, from draws, then end to end."""

import math
from dataclasses import dataclass
from typing import Literal

from rcp.choosing.schedule import Schedule
from rcp.errors import UserError
from rcp.objectives.labels import LabelForm
from rcp.plugin import Plugin
from rcp.training.curves import falling_budget

ROUNDING = 1e-9
"""Shares of steps as they are written, such as 0.7 and 0.3, add up to 1 within this."""


@dataclass
class GuideOptions:
    """Pruners learn from the teacher alone which tokens matter: in a first phase, or ``online``.

    In a first phase the student does not run, and a repair adapter waits for its turn. With a
    ``layer`` the label is the attention the teacher pays there (CoViPAL stage 1 [note]); without,
    it is a token's relevance to the answer, summed over all layers from the pruning one on [ours].

    Attributes:
        layer: 0-based decoder layer whose attention from the question to the visual tokens is the
            label, deeper than the pruning layers that learn from it (`python -m rcp guide-layer`
            ranks them); null for the relevance to the answer (rcp/objectives/relevance.py)
        share: share of all steps with a guide; 1 trains in this phase alone, or all along beside
            the rest
        online: no phase of its own: the step that teaches the pruners trains the rest of the
            plug-in on the answers, too, whose gradient does not reach them. What a first phase
            would have read from a cache, the step's one pass of the teacher tells
        pruning_layers: the pruning layers that learn from it; null for all that keep anything
        form: with a layer, label as the "log" of a token's share of the attention, its "rank", or
            the "share" itself, each standardised within the sample
        sinks: with a layer, leave tokens out that receive more than this multiple of their
            sample's mean attention; null for none
        learning_rate: the highest learning rate of this phase
    """

    layer: int | None = None
    share: float = 0.3
    online: bool = False
    pruning_layers: list[int] | None = None
    form: LabelForm = "log"
    sinks: float | None = None
    learning_rate: float = 1e-3

    def _check(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(
                f"guide.share is {self.share}, but it is the share of all steps with a guide: give "
                "a number above 0, up to 1, or guide: null for none."
            )
        if self.sinks is not None and self.sinks <= 1:
            raise UserError(
                f"guide.sinks is {self.sinks}, but it is a multiple of the mean attention beyond "
                "which a token is left out: give a number above 1, or null to leave none out."
            )
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"guide.learning_rate is {self.learning_rate}: give a number above 0, such as 1e-3."
            )
        if self.pruning_layers == []:
            raise UserError(
                "guide.pruning_layers is empty, so that nothing would learn from the guide. Name "
                "pruning layers, or give guide: null for none."
            )

    def teaches(self, progress: float) -> bool:
        """Whether the guide is at work when the share ``progress`` of all steps is done."""
        return progress < self.share

    def pruning(self, schedule: Schedule) -> tuple[int, ...]:
        """The pruning layers that learn from the guide; refuses what cannot be."""
        self._check()  # not where it is made: the parser would take a refusal for its own
        if self.layer is not None and not 0 <= self.layer < schedule.num_layers:
            raise UserError(
                f"guide.layer is {self.layer}, but the decoder has {schedule.num_layers} layers. "
                f"Choose one of 0 to {schedule.num_layers - 1}."
            )
        if self.pruning_layers is None:
            stages = zip(schedule.layers, schedule.ratios)
            chosen = tuple(layer for layer, ratio in stages if ratio)
        else:
            chosen = tuple(self.pruning_layers)
        if unknown := sorted(set(chosen) - set(schedule.layers)):
            raise UserError(
                f"guide.pruning_layers names layer {unknown[0]}, where nothing is pruned. Choose "
                f"among {', '.join(map(str, schedule.layers))}."
            )
        guide = schedule.num_layers if self.layer is None else self.layer
        if late := [layer for layer in chosen if layer >= guide]:
            raise UserError(
                f"Layer {self.layer} cannot guide the pruner at layer {late[0]}: a guide lies "
                "deeper. Raise guide.layer, or name the earlier layers in guide.pruning_layers."
            )
        return chosen


def guide_options(said: GuideOptions | Literal["online"] | None) -> GuideOptions | None:
    """What ``model.guide`` says, its one word written out."""
    return GuideOptions(online=True, share=1.0) if said == "online" else said


@dataclass
class PolicyOptions:
    """Pruners that know which tokens matter learn, by drawing, which matter together. [ours]

    Behind the guide's phase. For every question groups of tokens are drawn by the scores of all
    stages, the others are dropped, and what makes the reference answer likelier than the group's
    mean gains: a policy gradient, from forward passes alone. Repair and the like stand still.

    With plugin.selection "learned" it is drawn how many, too, and each token has a price, which
    rises while more are kept in the mean than the plug-in's budget, and falls to nothing while
    fewer are.

    Attributes:
        share: share of all steps that are spent on it
        group: how often the tokens of a question are drawn in a step
        learning_rate: the highest learning rate of this phase
        guide: weight of the KL divergence from the scores as they were when the phase began
        first_budget: mean share of the visual tokens over the decoder's layers at the start, from
            which the budget falls to the plug-in's own over half of the phase; null for its own
            all along, or with plugin.budgets for the highest of them, where it is the lower end of
            what is drawn that falls
    """

    share: float = 0.3
    group: int = 8
    learning_rate: float = 1e-4
    guide: float = 0.1
    first_budget: float | None = None

    def check(self, guide: GuideOptions | None, taught: bool, plugin: Plugin) -> None:
        """Raise ``UserError`` for a value that cannot be, or a training it has no place in.

        ``taught``: whether the pruners come from another training.
        """
        if guide is not None and guide.online:
            raise UserError(
                "model.policy goes on from what a guide has taught, and an online guide teaches to "
                "the end. Set guide.online to false, or model.policy to null."
            )
        if guide is None and not taught:
            raise UserError(
                "model.policy goes on from pruners that know which tokens matter: what untaught "
                "ones draw teaches next to nothing. Give model.guide, or model.pruners_from."
            )
        if not drawing_layers(plugin):
            raise UserError(
                "model.policy draws by the scores of pruners that learn, and none of these does. "
                "Give a learned pruner, or set model.policy to null."
            )
        before = 0.0 if guide is None else guide.share
        if not 0 < self.share <= 1 - before + ROUNDING:
            raise UserError(
                f"policy.share is {self.share}, but it is a share of all steps, of which the guide "
                f"leaves {1 - before:g}: give a number above 0, up to that, or policy: null for "
                "none."
            )
        if self.group < 2:
            raise UserError(
                f"policy.group is {self.group}, but what is drawn is measured by the mean of its "
                "group: give 2 or more."
            )
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"policy.learning_rate is {self.learning_rate}: give a number above 0, such as "
                "1e-4."
            )
        if not 0 <= self.guide < math.inf:
            raise UserError(f"policy.guide is {self.guide}, but it is a weight: give 0 or more.")
        if plugin.spec.selection not in ("top_k", "learned"):
            raise UserError(
                f"model.policy draws as many tokens as a stage keeps, which selection: "
                f"{plugin.spec.selection} leaves open. Set plugin.selection to top_k, or "
                "model.policy to null."
            )
        if self.first_budget is not None and not plugin.mean_ratio <= self.first_budget <= 1:
            raise UserError(
                f"policy.first_budget is {self.first_budget}, but the budget falls from it to the "
                f"plug-in's own: give a share from {plugin.mean_ratio:.4g} to 1, or null."
            )

    def budgets(self, progress: float, plugin: Plugin) -> tuple[float, float]:
        """The lowest and the highest mean ratio when the share ``progress`` of the phase is done.

        They are one where the plug-in has one.
        """
        low, high = plugin.spec.budgets or (plugin.mean_ratio, plugin.mean_ratio)
        lowest = falling_budget(progress, self.first_budget or high, low)
        return lowest, max(high, lowest) if plugin.spec.budgets else lowest


def drawing_layers(plugin: Plugin) -> list[int]:
    """The pruning layers whose tokens a policy draws: those of pruners with parameters."""
    layers = plugin.schedule.layers
    return [at for at in layers if next(plugin.pruner(at).parameters(), None) is not None]


@dataclass
class RetentionOptions:
    """Soft retention at the start of the end-to-end phase. CoViPAL stage 2 [note].

    A token is retained by sigmoid(S - t), a log bias on its key column in every later layer, with
    t at the cut of top-k, or 0 in threshold mode; the rest of the phase keeps or drops as inference
    does, with a straight-through gradient.

    Attributes:
        share: share of the end-to-end steps with soft retention
        budget: weight of (mean retention - ratio)², λ
        indecision: weight of the mean of s(1-s), μ
    """

    share: float = 0.7
    budget: float = 10.0
    indecision: float = 0.1

    def check(self, guide: GuideOptions | None) -> None:
        """Raise ``UserError`` for a value that cannot be, and beside an online ``guide``."""
        if guide is not None and guide.online:
            raise UserError(
                "model.retention lets pruners learn from the answers, which an online guide keeps "
                "from them. Set model.retention to null, or guide.online to false."
            )
        if not 0 < self.share <= 1:
            raise UserError(
                f"retention.share is {self.share}, but it is the share of the end-to-end steps "
                "with soft retention: give a number above 0, up to 1, or retention: null for none."
            )
        for name in ("budget", "indecision"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(
                    f"retention.{name} is {getattr(self, name)}, but it is a loss weight: give 0 "
                    "or more."
                )


@dataclass(frozen=True)
class Moment:
    """A point of a training: the phase it is in, and the ``progress`` in [0, 1] of that phase."""

    phase: Literal["guided", "policy", "soft", "hard"]
    progress: float


def moment(
    progress: float,
    guide: GuideOptions | None,
    retention: RetentionOptions | None,
    policy: PolicyOptions | None = None,
) -> Moment:
    """Where a training is when the share ``progress`` of all its steps is done.

    Soft and hard retention share one end-to-end phase and its curves. An online guide has no phase
    of its own.
    """
    guided = 0.0 if guide is None or guide.online else guide.share
    drawn = 0.0 if policy is None else policy.share
    if progress < guided:
        return Moment("guided", progress / guided)
    if progress < guided + drawn - ROUNDING:
        return Moment("policy", (progress - guided) / drawn)
    left = 1 - guided - drawn
    done = 1.0 if left <= ROUNDING else (progress - guided - drawn) / left
    soft = retention is not None and done < retention.share
    return Moment("soft" if soft else "hard", max(0.0, done))


def teacher_alone(guide: GuideOptions | None, policy: PolicyOptions | None) -> bool:
    """Whether no step trains end to end: first phases take all of them."""
    if guide is not None and guide.online:
        return False
    shares = [phase.share for phase in (guide, policy) if phase is not None]
    return sum(shares) >= 1 - ROUNDING
