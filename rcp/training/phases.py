"""The phases of a training: learning from the teacher, then end to end, softly and hard."""

import math
from dataclasses import dataclass
from typing import Literal

from rcp.choosing.schedule import Schedule
from rcp.errors import UserError
from rcp.objectives.labels import LabelForm


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
        pruning_layers: the pruning layers that learn from it; null for all of them
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
        chosen = schedule.layers if self.pruning_layers is None else tuple(self.pruning_layers)
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

    phase: Literal["guided", "soft", "hard"]
    progress: float


def moment(
    progress: float, guide: GuideOptions | None, retention: RetentionOptions | None
) -> Moment:
    """Where a training is when the share ``progress`` of all its steps is done.

    Soft and hard retention share one end-to-end phase and its curves. An online guide has no phase
    of its own.
    """
    guided = 0.0 if guide is None or guide.online else guide.share
    if progress < guided:
        return Moment("guided", progress / guided)
    done = 1.0 if guided == 1 else (progress - guided) / (1 - guided)
    soft = retention is not None and done < retention.share
    return Moment("soft" if soft else "hard", done)
