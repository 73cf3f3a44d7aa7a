"""One pruning stage: what the method sees, and what it chooses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.forwards.attention import LayerAttention
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.slots import Slots
from rcp.backbones import Backbone
from rcp.choosing.calibrated import Cut, by_sample
from rcp.choosing.learned_count import Counting
from rcp.choosing.merging import merge_rows
from rcp.choosing.positions import Positions
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.sampling import Sampling
from rcp.choosing.selection import retention, soft_top_k, straight_through, threshold, top_k
from rcp.choosing.several import image_of_text
from rcp.choosing.view import View, deferred, mean_over_question
from rcp.pruners import Pruner


@dataclass(frozen=True)
class Choice:
    """``keep`` (B, N) bool; ``soft`` (B, N) fp32 the mask that carries the gradient; ``scores``
    (B, N). Both are None at inference of methods that do not score. ``weights`` (B, K, N) of what
    is folded into the K kept tokens, None where nothing is. ``drawn`` (B, N) fp32, where tokens are
    sampled: the first one drawn is the highest, -inf at those that are not; ``multiples`` (B,) fp32
    how many, where that is learned: the logarithm of what multiple of the stage's count."""

    keep: Tensor
    soft: Tensor | None = None
    scores: Tensor | None = None
    weights: Tensor | None = None
    drawn: Tensor | None = None
    multiples: Tensor | None = None

    def to(self, device: torch.device) -> "Choice":
        """All of it on the device of the token map."""
        soft = None if self.soft is None else self.soft.to(device)
        scores = None if self.scores is None else self.scores.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        drawn = None if self.drawn is None else self.drawn.to(device)
        multiples = None if self.multiples is None else self.multiples.to(device)
        return Choice(self.keep.to(device), soft, scores, weights, drawn, multiples)

    def folded(self, hidden: Tensor, place: Place) -> Tensor:
        """``hidden`` (B, R, D) with what is folded into the kept rows of ``place``."""
        if self.weights is None:
            return hidden
        keep, weights = self.keep.to(hidden.device), self.weights.to(hidden.device)
        return merge_rows(hidden, place.visual.index(hidden), keep, weights)


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
    **known: Any,
) -> View:
    """The view of ``pruner`` at ``place``, in the pruner's own dtype; only what it ``needs``, made
    when it reads it.

    ``question_valid`` (B, Q) bool; ``known`` fields of the view are handed on.
    """
    device = place.hidden.device
    attention = LayerAttention(backbone, place, device)
    parameter = next(pruner.parameters(), None)
    # as they are now: the forward goes on
    before, transitions, full_attention = seen.before, seen.transitions, seen.full_attention

    def of_layer(rows: Positions) -> Tensor:
        found = rows.take(place.normed)
        return found if parameter is None else found.to(parameter)

    def of_slots(values: Tensor | None) -> Tensor:
        assert values is not None, "the hooks collect what `needs` names"
        rank = slots.rank.to(device)
        shape = *rank.shape[:1], *(1,) * (values.dim() - 2), rank.shape[1]
        return values.to(device).gather(-1, rank.view(shape).expand(*values.shape[:-1], -1))

    makers: dict[str, Callable[[], Any]] = {
        "question_attention": lambda: mean_over_question(
            attention("question"), place.question.valid
        ),
        "attention": lambda: attention,
        "attention_before": lambda: _before(backbone, before, device),
        "layer_input": lambda: place.visual.take(place.hidden),
        "text": lambda: of_layer(place.locate_text()),
        "text_image": lambda: image_of_text(slots.tokens).to(device),
        "transitions": lambda: of_slots(transitions),
        "full_attention": lambda: of_slots(full_attention),
    }
    needed = {name: deferred(makers[name]) for name in pruner.needs & makers.keys()}
    return View(
        layer=place.layer,
        visual=deferred(lambda: of_layer(place.visual)),
        alive=slots.alive.to(device),
        question=deferred(lambda: of_layer(place.question)),
        question_valid=question_valid,
        rank=deferred(lambda: slots.rank.to(device)),
        total=deferred(lambda: slots.total.to(device)),
        image_index=deferred(lambda: slots.image_index.to(device)),
        grid=deferred(lambda: slots.grid.to(device)),
        whole=place.visual.valid is None and place.question.valid is None,
        **needed,  # type: ignore[arg-type]
        **known,
    )


def _before(backbone: Backbone, place: Place | None, device: torch.device) -> LayerAttention:
    assert place is not None, "a plug-in has no such stage at layer 0"
    return LayerAttention(backbone, place.to(backbone.device(place.layer)), device)


def choose(
    pruner: Pruner,
    view: View,
    counts: Tensor,
    selection: str | Cut | Counting,
    relaxation: Relaxation | Sampling | None,
) -> Choice:
    """Let ``pruner`` choose ``counts`` (B,) tokens a row, or those above zero or within a cut, or
    as many as is learned.

    With a relaxation the choice is perturbed by its noise and carries a gradient, with a sampling
    ``counts`` tokens are drawn; not so with a method without parameters, which would learn nothing
    by it and choose other tokens than at inference.
    """
    if next(pruner.parameters(), None) is None:
        relaxation = None
    if selection == "top_k" and relaxation is None:
        keep = pruner.select(view, counts)
        return Choice(keep, weights=pruner.merge(view, keep))
    scores = pruner(view)
    multiples = None
    if isinstance(selection, Counting):
        multiples = selection.multiples(view, scores, counts)
        if isinstance(relaxation, Sampling):
            multiples = relaxation.drawn(multiples)
        counts = selection.counts(multiples, counts)
    if relaxation is None:
        keep = _kept(scores, view.alive, counts, selection)
        return Choice(keep, scores=scores, weights=pruner.merge(view, keep))
    noisy = relaxation.perturb(scores)
    if isinstance(relaxation, Sampling):
        keep = top_k(noisy, view.alive, counts)
        drawn = noisy.masked_fill(~keep, -torch.inf)
        return Choice(keep, weights=pruner.merge(view, keep), drawn=drawn, multiples=multiples)
    keep = _kept(noisy.detach(), view.alive, counts, selection)
    if relaxation.denoiser is not None:
        return Choice(keep, soft_top_k(noisy, view.alive, counts, relaxation.temperature), scores)
    mask = straight_through if relaxation.hard else retention
    soft = mask(noisy, keep, view.alive, relaxation, centred=selection != "threshold")
    return Choice(keep, soft, scores, pruner.merge(view, keep))


def _kept(
    scores: Tensor, alive: Tensor, counts: Tensor, selection: str | Cut | Counting
) -> Tensor:
    if isinstance(selection, Cut):
        return by_sample(scores, alive, counts, selection)
    return threshold(scores, alive) if selection == "threshold" else top_k(scores, alive, counts)
