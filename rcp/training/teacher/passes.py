"""One pass of the frozen model over a batch, and what it tells: answers, views, relevance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.attach import attach
from rcp.attaching.stopping import stopping_at
from rcp.attaching.trace import Trace
from rcp.backbones import backbone_for
from rcp.conversations import Batch
from rcp.objectives.losses import task_loss
from rcp.objectives.relevance import entry_relevance, relevance
from rcp.plugin import Plugin
from rcp.training.objective import answer_logits

Answers = tuple[Tensor, Trace]
"""Logits (B, C, V) as :func:`answer_logits` gives them, and the answer rows of some layers."""


@dataclass(frozen=True)
class Lesson:
    """What a guide teaches from; nothing of it has a gradient.

    ``trace``: the views that were asked for, and the attention. ``relevance`` (B, L, N) fp32, in a
    unit of its own for each sample, zero before the first layer with a view; None where attention
    was asked for. ``answers``: None where nobody asked for them.
    """

    trace: Trace
    relevance: Tensor | None = None
    answers: Answers | None = None


@torch.no_grad()
def answers_of(model: nn.Module, plugin: Plugin, batch: Batch, layers: Sequence[int]) -> Answers:
    """The answers of the model as it is."""
    with attach(model, plugin, "record") as handle, handle.trace(answers=layers) as trace:
        logits, _ = answer_logits(model, batch)
    return logits, trace


@torch.no_grad()
def watched(
    model: nn.Module,
    plugin: Plugin,
    batch: Batch,
    views: Sequence[int],
    attention: Sequence[int] = (),
    answers: Sequence[int] | None = None,
) -> Lesson:
    """The views and the attention of these layers; a pass that ends at the deepest of them,
    unless it is to tell the ``answers``."""
    deepest = backbone_for(model).layers[max((*views, *attention))]
    with attach(model, plugin, "record") as handle:
        with handle.trace(attention=attention, views=views, answers=answers or ()) as trace:
            if answers is None:
                with stopping_at(deepest):
                    answer_logits(model, batch)
                return Lesson(trace)
            logits, _ = answer_logits(model, batch)
    return Lesson(trace, answers=(logits, trace))


def relevant(
    model: nn.Module,
    plugin: Plugin,
    batch: Batch,
    views: Sequence[int] = (),
    answers: Sequence[int] | None = None,
) -> Lesson:
    """Each visual token's relevance to the answer, which costs a backward pass, and whatever else
    that one pass is asked for; see :mod:`rcp.objectives.relevance`: from every layer, or where
    nothing can be masked inside the decoder from its input."""
    first, at_entry = min(views, default=0), bool(backbone_for(model).only_before)
    asked: dict[str, Any] = (
        {"enters": True} if at_entry else {"biases": range(first, plugin.num_layers)}
    )
    with torch.enable_grad(), attach(model, plugin, "record") as handle:
        with handle.trace(views=views, answers=answers or (), **asked) as trace:
            logits, labels = answer_logits(model, batch)
        found = (entry_relevance if at_entry else relevance)(trace, -task_loss(logits, labels))
    # the graph is gone: nothing may lead back into it
    trace.biases.clear()
    trace.entered = None
    trace.views = {layer: view.mapped(Tensor.detach) for layer, view in trace.views.items()}
    states = trace.answer_states.items()
    trace.answer_states = {layer: rows.detach() for layer, rows in states}
    whole = nn.functional.pad(found, (0, 0, first, 0))
    return Lesson(trace, whole, None if answers is None else (logits.detach(), trace))
