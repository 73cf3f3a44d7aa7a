"""How deep into the decoder visual tokens still tell it something."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.backbones import backbone_for
from rcp.choosing.tokens import IGNORED
from rcp.conversations import Batch, on_device
from rcp.plugin import Plugin, PluginSpec, StageSpec


@torch.no_grad()
def information_by_layer(model: Any, batches: Iterable[Batch]) -> list[float]:
    """What all visual tokens tell from each layer on: one mean probability for each layer.

    The information at layer i is the probability of the right answer with the image seen all the
    way, less that with all visual tokens dropped from layer i on (arXiv 2512.07580 [note]). An
    answer's probability is the product over its tokens, each given those before. ``batches`` come
    with labels.
    """
    depth = len(backbone_for(model).layers)
    plugins = [
        Plugin.for_model(PluginSpec(stages=[StageSpec(layer, 0.0, "random")]), model)
        for layer in range(depth)
    ]
    lost = torch.zeros(depth, dtype=torch.float64)
    samples = 0
    for batch in batches:
        batch = on_device(batch, model.device)
        inputs, labels = batch["inputs"], batch["labels"]
        seeing = _answer_probability(model, inputs, labels)
        samples += len(seeing)
        for layer, plugin in enumerate(plugins):
            with attach(model, plugin, "drop"):
                blind = _answer_probability(model, inputs, labels)
            lost[layer] += (seeing - blind).sum().item()
    return (lost / max(1, samples)).tolist()


def horizon(information: list[float], tolerance: float) -> int:
    """The first layer from which on no layer has more than ``tolerance`` left; the depth if none.

    Visual tokens may all go there.
    """
    for layer in range(len(information), 0, -1):
        if information[layer - 1] > tolerance:
            return layer
    return 0


def _answer_probability(model: Any, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Of each sample's whole answer under the right prefix: (B,) fp64."""
    logits = model(**inputs, labels=labels, use_cache=False).logits[:, :-1].double()
    wanted = labels[:, 1:]
    told = logits.log_softmax(-1).gather(2, wanted.clamp(min=0)[..., None]).squeeze(-1)
    return (told * (wanted != IGNORED)).sum(1).exp()
