"""Where the visual tokens of a batch lie, found without running the decoder."""

from typing import Any

import torch

from rcp.attaching.attach import attach
from rcp.attaching.stopping import stopping_at
from rcp.backbones import Backbone
from rcp.evaluation.answers import Places
from rcp.plugin import Plugin, PluginSpec, StageSpec


@torch.no_grad()
def places_of(backbone: Backbone, inputs: dict[str, Any]) -> list[Places]:
    """Of each sample in ``inputs``, by a forward that ends before the first layer."""
    spec = PluginSpec([StageSpec(0, 1.0, "uniform")])
    onlooker = Plugin(spec, backbone.hidden_size, len(backbone.layers))
    with attach(backbone.model, onlooker, "record") as handle, handle.trace(views=(0,)) as trace:
        with stopping_at(backbone.layers[0]):
            backbone.model(**inputs, use_cache=False)
    view = trace.views[0]
    exists, grid = view.alive.cpu(), view.grid.float().cpu()
    return [
        Places(index[here].numpy(), places[here].numpy())
        for here, index, places in zip(exists, view.image_index.cpu(), grid)
    ]
