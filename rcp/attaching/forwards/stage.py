"""One pruning stage: what the method sees, and what it chooses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.forwards.attention import LayerAttention
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.slots import Slots
from rcp.backbones import Backbone
from rcp.choosing.merging import merge_rows
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.selection import retention, straight_through, threshold, top_k
from rcp.choosing.tokens import take_rows
from rcp.choosing.view import View, mean_over_question
from rcp.pruners import Pruner


@dataclass(frozen=True)
class Choice:
    """``keep`` (B, N) bool; ``soft`` (B, N) fp32 the mask that carries the gradient; ``scores``
    (B, N). Both are None at inference of methods that do not score. ``weights`` (B, K, N) of what
    is folded into the K kept tokens, None where nothing is."""

    keep: Tensor
    soft: Tensor | None = None
    scores: Tensor | None = None
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Choice":
        """All of it on the device of the token map."""
        soft = None if self.soft is None else self.soft.to(device)
        scores = None if self.scores is None else self.scores.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return Choice(self.keep.to(device), soft, scores, weights)

    def folded(self, hidden: Tensor, place: Place) -> Tensor:
        """``hidden`` (B, R, D) with what is folded into the kept rows of ``place``."""
        if self.weights is None:
            return hidden
        keep, weights = self.keep.to(hidden.device), self.weights.to(hidden.device)
        return merge_rows(hidden, place.visual.to(hidden.device), keep, weights)


@dataclass
class Seen:
    """What the layers before a stage left for it, where its method asks.

    ``before``: the rows at the input of the layer before; ``transitions`` (B, N) fp32 and
    ``full_attention`` (B, layers, N) fp32 over all slots a sample began with.
    """

    before: Place | None = None
    transitions: Tensor | None = None
    full_attention: Tensor | None = None


def look(
    backbone: Backbone,
    pruner: Pruner,
    place: Place,
    slots: Slots,
    question_valid: Tensor,
    seen: Seen,
) -> View:
    """The view of ``pruner`` at ``place``, in the pruner's own dtype; only what it ``needs``.

    ``question_valid`` (B, Q) bool.
    """
    attention = LayerAttention(backbone, place, slots.alive, question_valid)
    visual = take_rows(attention.normed, place.visual)
    parameter = next(pruner.parameters(), visual)
    view = View(
        layer=place.layer,
        visual=visual.to(parameter),
        alive=slots.alive,
        question=take_rows(attention.normed, place.question).to(parameter),
        question_valid=question_valid,
        rank=slots.rank,
        total=slots.total,
        image_index=slots.image_index,
        grid=slots.grid,
    )
    device = slots.alive.device
    providers: dict[str, Callable[[], Any]] = {
        "question_attention": lambda: mean_over_question(attention("question"), question_valid),
        "attention": lambda: attention,
        "attention_before": lambda: _before(backbone, seen, slots, question_valid),
        "layer_input": lambda: take_rows(place.hidden, place.visual),
        "transitions": lambda: _of_slots(seen.transitions, device).gather(1, slots.rank),
        "full_attention": lambda: _of_slots(seen.full_attention, device).gather(
            2, slots.rank[:, None].expand(-1, len(backbone.layers), -1)
        ),
    }
    return replace(view, **{name: providers[name]() for name in pruner.needs & providers.keys()})


def _before(
    backbone: Backbone, seen: Seen, slots: Slots, question_valid: Tensor
) -> LayerAttention:
    assert seen.before is not None, "a plug-in has no such stage at layer 0"
    place = seen.before.to(backbone.device(seen.before.layer))
    return LayerAttention(backbone, place, slots.alive, question_valid)


def _of_slots(values: Tensor | None, device: torch.device) -> Tensor:
    assert values is not None, "the hooks collect what `needs` names"
    return values.to(device)


def choose(
    pruner: Pruner, view: View, counts: Tensor, selection: str, relaxation: Relaxation | None
) -> Choice:
    """Let ``pruner`` choose ``counts`` (B,) tokens a row, or those above zero.

    With a ``relaxation`` the choice is perturbed by its noise and carries a gradient; not that of a
    method without parameters, which would learn nothing by it and choose other tokens than at
    inference.
    """
    if next(pruner.parameters(), None) is None:
        relaxation = None
    if selection == "top_k" and relaxation is None:
        keep = pruner.select(view, counts)
        return Choice(keep, weights=pruner.merge(view, keep))
    scores = pruner(view)
    if relaxation is None:
        keep = threshold(scores, view.alive)
        return Choice(keep, scores=scores, weights=pruner.merge(view, keep))
    noisy = relaxation.perturb(scores)
    centred = selection == "top_k"
    if centred:
        keep = top_k(noisy.detach(), view.alive, counts)
    else:
        keep = threshold(noisy.detach(), view.alive)
    mask = straight_through if relaxation.hard else retention
    soft = mask(noisy, keep, view.alive, relaxation, centred=centred)
    return Choice(keep, soft, scores, pruner.merge(view, keep))
