"""One question about tiles, as the tensors that the model takes, and what it answers."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.backbones import backbone_for
from rcp.base_model.answering import greedy_answers
from rcp.choosing.keep_plan import KeepPlan
from rcp.conversations import ConversationCollator, LoadedSample, Sample, on_device
from rcp.conversations.sample import NO_TYPE, PLACEHOLDER
from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.quoting import quoted

NO_LIMIT = 2**31


class Asking:
    """``question`` put to ``model``; raises ``UserError`` for one with a place for an image."""

    def __init__(self, model: Any, processor: Any, question: str) -> None:
        if PLACEHOLDER in question:
            raise UserError(
                f"The question {quoted(question)} holds {PLACEHOLDER}: tiles get their places by "
                "themselves, so ask without it."
            )
        self.model, self.processor, self.question = model, processor, question
        self.backbone = backbone_for(model)
        self.collate = ConversationCollator(processor, NO_LIMIT, with_answers=False)

    def inputs(self, shown: Sequence[Sequence[Image.Image]]) -> dict[str, Tensor]:
        """Prompts, one for each of ``shown``: its tiles as so many images before the question."""
        items = []
        for number, tiles in enumerate(shown):
            text = PLACEHOLDER * len(tiles) + "\n" + self.question
            sample = Sample(f"prompt {number}", (), text, "", NO_TYPE)
            items.append(LoadedSample(sample, tuple(tiles)))
        return on_device(self.collate(items), self.model.device)["inputs"]

    def answer(self, tiles: Sequence[Image.Image], keep: Tensor, max_new_tokens: int) -> str:
        """What the model says of ``tiles`` in one prompt, its tokens outside ``keep`` (N,) dropped.

        ``keep`` is bool and goes through the tokens of all tiles. Raises ``UserError`` where the
        prompt has other tokens than these.
        """
        inputs = self.inputs([tiles])
        visual = self.backbone.image_rows(inputs["input_ids"], None)
        count = int(visual.sum())
        if count != len(keep):
            raise UserError(
                f"{len(tiles)} tiles in one prompt have {count} visual tokens, each in a prompt of "
                f"its own {len(keep)}: this model shows several images in another way than one. "
                "Answer from a single tile."
            )
        alive = inputs["attention_mask"].bool()
        alive = alive.masked_scatter(visual, keep.to(alive.device))
        plan = KeepPlan((0,), alive[None], visual)
        # who would choose is not asked: the plan says what stays
        planned = Plugin.for_model(PluginSpec([StageSpec(0, 1.0, "uniform")]), self.model)
        with torch.no_grad(), attach(self.model, planned, plan=plan):
            return greedy_answers(self.model, self.processor, inputs, max_new_tokens)[0]
