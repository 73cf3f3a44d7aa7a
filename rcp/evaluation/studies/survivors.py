"""Which visual tokens of one sample are alive after each stage, and what is then answered."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.base_model.answering import greedy_answers
from rcp.conversations import PLACEHOLDER, ConversationCollator, LoadedSample, on_device
from rcp.conversations.images import middle_square
from rcp.errors import UserError
from rcp.evaluation.preparation import NO_LIMIT, sees_the_middle
from rcp.plugin import Plugin


@dataclass(frozen=True)
class Survivors:
    """One sample. ``images`` as the model saw them; ``alive`` (S, N) bool after each of the stages
    at ``layers``; ``image_index`` (N,) long and ``grid`` (N, 2) in [-1, 1], NaN without a place,
    say where the N visual tokens lie. ``full`` and ``pruned`` are the answers."""

    id: str
    question: str
    answer: str
    full: str
    pruned: str
    images: tuple[Image.Image, ...]
    layers: tuple[int, ...]
    alive: Tensor
    image_index: Tensor
    grid: Tensor


@torch.no_grad()
def survivors(
    model: Any, processor: Any, plugin: Plugin, item: LoadedSample, max_new_tokens: int = 16
) -> Survivors:
    """What ``plugin`` keeps of ``item``, with the tokens physically dropped.

    Raises ``UserError`` for a sample without an image or a plug-in without a stage.
    """
    layers = plugin.schedule.layers
    if not item.images or not layers:
        raise UserError(
            f"Nothing is dropped for sample '{item.sample.id}': "
            f"{'the plug-in has no stage' if item.images else 'it has no image'}. Choose another."
        )
    collate = ConversationCollator(processor, NO_LIMIT, with_answers=False)
    inputs = on_device(collate([item]), model.device)["inputs"]
    full = greedy_answers(model, processor, inputs, max_new_tokens)[0].strip()
    with attach(model, plugin, "record") as handle, handle.trace(views=layers[:1]) as seen:
        model(**inputs)
    with attach(model, plugin, "drop") as handle:
        with handle.trace() as kept:
            model(**inputs)
        pruned = greedy_answers(model, processor, inputs, max_new_tokens)[0].strip()
    assert kept.plan is not None
    view = seen.views[layers[0]]
    columns = kept.plan.visual[0]
    return Survivors(
        id=item.sample.id,
        question=item.sample.question.replace(PLACEHOLDER, "").strip(),
        answer=item.sample.answer,
        full=full,
        pruned=pruned,
        images=tuple(_as_seen(image, processor) for image in item.images),
        layers=layers,
        alive=kept.plan.alive[:, 0, columns].cpu(),
        image_index=view.image_index[0].cpu(),
        grid=view.grid[0].float().cpu(),
    )


def _as_seen(image: Image.Image, processor: Any) -> Image.Image:
    """The middle square where the processor crops to it, else the whole image."""
    return middle_square(image) if sees_the_middle(processor) else image
