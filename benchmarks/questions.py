"""Test questions that many plug-ins answer one after another, the images encoded once for all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rcp import attach
from rcp.atomic_write import atomic
from rcp.attaching.given_images import encode_images, given_images
from rcp.base_model.answering import greedy_answers
from rcp.base_model.loading import load_base
from rcp.conversations import Batch, ConversationCollator, ConversationDataset
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin

Right = list[bool]
"""Of each test question, whether it was answered right."""


def pruners_at(folder: Path, ratios: Sequence[float]) -> Plugin:
    """The pruners of the plug-in in ``folder``, without its repair, keeping these ``ratios``; fewer
    ratios than it has stages are those of the first ones, and the others are left out."""
    taught = load_plugin(folder)
    stages = [
        replace(stage, ratio=ratio)
        for stage, ratio in zip(taught.spec.stages[: len(ratios)], ratios, strict=True)
    ]
    spec = replace(taught.spec, stages=stages, repair=None)
    plugin = Plugin(spec, taught.hidden_size, taught.num_layers)
    for stage in stages:
        plugin.pruner(stage.layer).load_state_dict(taught.pruner(stage.layer).state_dict())
    plugin.base = taught.base
    return plugin.eval()


class Questions:
    """The first ``limit`` questions of ``data``, answered by one contestant after another.

    What a contestant gets right is kept in ``folder``, so that it answers once.
    """

    def __init__(self, base: str, data: Path, limit: int, folder: Path) -> None:
        self.model, self.processor = load_base(base, "float32")
        self.dataset = ConversationDataset(data)
        self.count, self.folder = min(limit, len(self.dataset)), folder
        self.kinds = [sample.question_type for sample in self.dataset.samples[: self.count]]

    @cached_property
    def batches(self) -> list[tuple[Batch, Any]]:
        """Batches with the features of their images, which all contestants share."""
        collate = ConversationCollator(self.processor, with_answers=False)
        starts = range(0, self.count, 50)
        numbers = [range(start, min(start + 50, self.count)) for start in starts]
        batches = [collate([self.dataset[n] for n in some]) for some in numbers]
        return [(batch, encode_images(self.model, batch["inputs"])) for batch in batches]

    def right(self, name: str, plugin: Plugin | None) -> Right:
        """What ``plugin`` answers right; None is the full model."""
        file = self.folder / f"{name.replace('/', '_').replace(' ', '_')}-{self.count}.json"
        if file.is_file():
            return json.loads(file.read_text())
        found: Right = []
        for batch, features in self.batches:
            with given_images(self.model, features):
                said = _answers(self.model, self.processor, plugin, batch["inputs"])
            pairs = zip(said, batch["answers"], strict=True)
            found += [one.strip().lower() == answer.strip().lower() for one, answer in pairs]
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(file) as unfinished:
            unfinished.write_text(json.dumps(found))
        return found


@torch.no_grad()
def _answers(model: Any, processor: Any, plugin: Plugin | None, inputs: Any) -> list[str]:
    if plugin is None:
        return greedy_answers(model, processor, inputs, 4)
    with attach(model, plugin, "drop"):
        return greedy_answers(model, processor, inputs, 4)
