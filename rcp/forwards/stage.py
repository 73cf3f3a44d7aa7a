"""One pruning stage: what the method sees, and what it chooses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.backbones import Backbone
from rcp.forwards.slots import Slots
from rcp.masking import causal, take_mask_rows, take_rows
from rcp.pruners import Pruner
from rcp.relaxation import Relaxation
from rcp.selection import retention, straight_through, threshold, top_k
from rcp.view import View


@dataclass(frozen=True)
class Place:
    """The rows at one layer's input.

    ``hidden`` (B, R, D); ``rope`` (cos, sin), each (B, R, d); ``mask`` the 4-D mask over these
    rows or None for plain causal; ``columns`` (B, R) their original columns; ``alive`` (B, R)
    bool: neither padding nor dropped; ``visual`` (B, N) and ``question`` (B, Q): positions of the
    visual slots and question tokens among these rows.
    """

    layer: int
    hidden: Tensor
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    columns: Tensor
    alive: Tensor
    visual: Tensor
    question: Tensor

    def to(self, device: torch.device) -> "Place":
        """All of it on the device of the layer."""
        mask = None if self.mask is None else self.mask.to(device)
        return Place(
            layer=self.layer,
            hidden=self.hidden.to(device),
            rope=(self.rope[0].to(device), self.rope[1].to(device)),
            mask=mask,
            columns=self.columns.to(device),
            alive=self.alive.to(device),
            visual=self.visual.to(device),
            question=self.question.to(device),
        )


@dataclass(frozen=True)
class Choice:
    """``keep`` (B, N) bool; ``soft`` (B, N) fp32 the mask that carries the gradient; ``scores``
    (B, N). Both are None at inference of methods that do not score."""

    keep: Tensor
    soft: Tensor | None = None
    scores: Tensor | None = None

    def to(self, device: torch.device) -> "Choice":
        """All of it on the device of the token map."""
        soft = None if self.soft is None else self.soft.to(device)
        scores = None if self.scores is None else self.scores.to(device)
        return Choice(self.keep.to(device), soft, scores)


def look(
    backbone: Backbone, pruner: Pruner, place: Place, slots: Slots, question_valid: Tensor
) -> View:
    """Build the view of ``pruner`` at ``place``, in the pruner's own dtype."""
    normed = backbone.input_norm(place.layer, place.hidden)
    question = take_rows(normed, place.question)
    attention = None
    if "question_attention" in pruner.needs:
        attention = question_attention(backbone, place, normed, question, question_valid)
        attention = attention.gather(1, place.visual)
    visual = take_rows(normed, place.visual)
    parameter = next(pruner.parameters(), visual)
    return View(
        layer=place.layer,
        visual=visual.to(parameter),
        alive=slots.alive,
        question=question.to(parameter),
        question_valid=question_valid,
        rank=slots.rank,
        image_index=slots.image_index,
        grid=slots.grid,
        question_attention=attention,
    )


def question_attention(
    backbone: Backbone, place: Place, normed: Tensor, question: Tensor, question_valid: Tensor
) -> Tensor:
    """The layer's attention from the question rows to every row, mean over heads and rows.

    Softmax over alive keys, text included, under the layer's own mask; (B, R) fp32. Only this
    block is computed: the layer keeps its fast attention.
    """
    cos, sin = (take_rows(part, place.question) for part in place.rope)
    query, key = backbone.qk(place.layer, question, normed, (cos, sin), place.rope)
    logits = backbone.attention_logits(place.layer, query, key)
    if place.mask is None:
        query_columns = place.columns.gather(1, place.question)
        allowed = causal(query_columns, place.columns, backbone.window(place.layer))
    else:
        allowed = take_mask_rows(place.mask, place.question)
        if allowed.dtype != torch.bool:
            allowed = allowed > torch.finfo(allowed.dtype).min / 2
    allowed = allowed & place.alive[:, None, None, :]
    weights = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min).softmax(-1)
    share = question_valid / question_valid.sum(1, keepdim=True).clamp(min=1)
    return (weights.mean(1) * share[..., None]).sum(1)


def choose(
    pruner: Pruner, view: View, counts: Tensor, selection: str, relaxation: Relaxation | None
) -> Choice:
    """Let ``pruner`` choose ``counts`` (B,) tokens a row, or those above zero.

    With a ``relaxation`` the choice is perturbed by its noise and carries a gradient.
    """
    if selection == "top_k" and relaxation is None:
        return Choice(pruner.select(view, counts))
    scores = pruner(view)
    if relaxation is None:
        return Choice(threshold(scores, view.alive), scores=scores)
    noisy = relaxation.perturb(scores)
    centred = selection == "top_k"
    if centred:
        keep = top_k(noisy.detach(), view.alive, counts)
    else:
        keep = threshold(noisy.detach(), view.alive)
    if relaxation.hard:
        soft = straight_through(noisy, keep, view.alive, relaxation, centred=centred)
    else:
        soft = retention(noisy, view.alive, relaxation)
    return Choice(keep, soft, scores)
