"""What is compared between two devices: every method on one model, two plug-ins on every family."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcp import Plugin
from rcp.backbones import backbone_for
from rcp.pruners import PRUNERS
from tests import test_methods
from tests.decoding import REFERENCES, plugin_for, prompt_ends
from tests.families import FAMILIES
from tests.families.batches import BATCHES, text_of


@dataclass(frozen=True)
class Subject:
    """A ``plugin`` on a tiny random ``model`` with the ``inputs`` of one batch, on the CPU.

    ``text`` (B, T) bool are the columns whose logits mean something, ``ends`` (B,) the columns
    after the prompts.
    """

    name: str
    model: Any
    plugin: Plugin
    inputs: dict[str, Tensor]

    @property
    def text(self) -> Tensor:
        return text_of(self.inputs, backbone_for(self.model))

    @property
    def ends(self) -> Tensor:
        return prompt_ends(self.inputs)


def subjects() -> Iterator[Subject]:
    """All of them, each model built when its turn comes."""
    for method in PRUNERS.names():
        for layers in test_methods.places(method):
            name = f"{method} at {', '.join(map(str, layers))}"
            plugin = test_methods.plugin(method, layers)
            yield Subject(name, test_methods.model(), plugin, test_methods.batch())
    for family, make in FAMILIES.items():
        case = make()
        for reference, spec in REFERENCES.items():
            plugin = plugin_for(case, spec())
            yield Subject(f"{family}: {reference}", case.model, plugin,
                          case.inputs(BATCHES["ragged"]))


def moved(inputs: dict[str, Tensor], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """``inputs`` on ``device``, those that are no whole numbers as ``dtype``."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
