"""A pruner that keeps the views it is shown."""

import rcp
from rcp.pruners import Pruner


class Probe(Pruner):
    """Scores by rank, so that the last tokens stay; ``views`` are what it saw."""

    def __init__(self, hidden_size, needs=()):
        super().__init__(hidden_size)
        self.needs = frozenset(needs)
        self.views = []

    def forward(self, view):
        self.views.append(view)
        return view.rank.float()


def probing(model, needs, layers=(1, 3), ratios=(0.5, 0.25)):
    """A plug-in whose stages only look, and its probes by layer."""
    stages = [rcp.StageSpec(at, ratio, "random") for at, ratio in zip(layers, ratios)]
    plugin = rcp.Plugin.for_model(rcp.PluginSpec(stages=stages), model).eval()
    probes = {at: Probe(plugin.hidden_size, needs) for at in layers}
    for at, probe in probes.items():
        plugin.pruners[str(at)] = probe
    return plugin, probes
