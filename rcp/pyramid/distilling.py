"""How a focus module learns from the frozen model's own attention."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcp.conversations.sample import PLACEHOLDER, LoadedSample
from rcp.plugin import Plugin
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import OwnAttention, Scores, shares
from rcp.pyramid.focus import Focus, focus_module, log_shares
from rcp.pyramid.levels import levels
from rcp.pyramid.walk import Budget
from rcp.pyramid.windows import Whole


def distilled(
    model: Any,
    processor: Any,
    items: Iterable[LoadedSample],
    steps: int,
    *,
    layer: int,
    side: int,
    budget: Budget,
    learning_rate: float,
) -> Plugin:
    """A focus module taught on ``items``, the first image of each a step, by layer ``layer``.

    Items without an image are passed over; there are at most ``steps``. Of each image every level
    is seen, of a level with more than ``budget.most_tiles`` so many at random. AdamW, its rate
    falling linearly to 0. The model stays as it is. Raises ``UserError`` as
    :class:`~rcp.pyramid.attention.OwnAttention` does.
    """
    plugin, teacher = focus_module(model).train(), OwnAttention(layer)
    student = Focus(plugin)
    optimizer = torch.optim.AdamW(plugin.parameters(), lr=learning_rate)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps))
    for item in items:
        if not item.images:
            continue
        asking = Asking(model, processor, asked(item))
        shown = list(tiles_by_level(item.images[0], side, budget))
        loss = focus_loss(
            [student.logits(asking, tiles) for tiles in shown],
            [teacher(asking, tiles) for tiles in shown],
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plugin.parameters(), 1.0)
        optimizer.step()
        fall.step()
    plugin.training_summary = {"focus": {"samples": steps, "layer": layer, "side": side}}
    return plugin.eval()


def focus_loss(student: Sequence[Scores], teacher: Sequence[Scores]) -> Tensor:
    """How far the logits of ``student`` are from the attention of ``teacher``: 0-d fp32.

    Level by level, the coarsest first: KL(teacher || student) of it, and of each finer one twice
    that and the squared error of the shares (weights [note]). That is a sum over the tokens, from 0
    to 2: a mean would vanish with their number. [ours]
    """
    total = torch.zeros(())
    for number, (logits, attention) in enumerate(zip(student, teacher, strict=True)):
        found, wanted = log_shares(logits), shares(attention)
        gap = (torch.xlogy(wanted, wanted) - wanted * found).sum()
        if number == 0:
            total = total + gap
            continue
        total = total + 2 * gap + (found.exp() - wanted).square().sum()
    return total


def tiles_by_level(image: Image.Image, side: int, budget: Budget) -> Iterable[list[Image.Image]]:
    """What a walk may look at of ``image``, coarsest level first."""
    whole = Whole(image)
    for level in levels(*whole.size, side, budget.across):
        tiles = level.tiles
        order = torch.randperm(len(tiles))[: budget.most_tiles].tolist()
        yield [whole.read(level.box(tiles[n]), (side, side)) for n in sorted(order)]


def asked(item: LoadedSample) -> str:
    """The question without the places of its images."""
    return item.sample.question.replace(PLACEHOLDER, "").strip()
