"""benchmarks/schedules.py: its schedules are at their budgets, and share what one guide taught."""

from pathlib import Path

import pytest
import torch

import rcp
from benchmarks import schedules
from benchmarks.variants import CONFIGS, read_configuration
from rcp.plugin import Plugin
from tests.tiny import RCP_ARGUMENTS, randomised

ROOT = Path(__file__).parent.parent


def taught() -> Plugin:
    stages = [rcp.StageSpec(layer, 0.1, "rcp", RCP_ARGUMENTS) for layer in (0, 1, 9, 10, 15, 19)]
    return randomised(Plugin(rcp.PluginSpec(stages), 16, schedules.DEPTH))


@pytest.mark.parametrize("budget", schedules.BUDGETS)
def test_contestants_hold_their_mean_with_weights_of_the_guide(budget: str):
    mean, source = schedules.BUDGETS[budget], taught()
    found = schedules.contestants(source, mean)
    for plugin in found.values():
        assert plugin.schedule.mean_ratio == pytest.approx(mean)
        for stage in plugin.spec.stages:
            own = plugin.pruner(stage.layer).state_dict()
            if stage.method == "rcp":
                theirs = source.pruner(stage.layer).state_dict()
                assert all(torch.equal(own[name], value) for name, value in theirs.items()) and own
    wiped = [name for name, plugin in found.items() if plugin.schedule.ratios[-1] == 0]
    assert len(wiped) == len(found) / 2 and all("FinalWipe" in name for name in wiped)
    inside = [name for name in found if "inside" in name]
    assert bool(inside) == (budget != "N/36"), "a full first layer is more than N/36"


def test_the_guide_teaches_every_layer_that_a_schedule_uses():
    made = schedules.guided(read_configuration(ROOT / CONFIGS / schedules.RECIPE))
    assert [stage["layer"] for stage in made["model"]["plugin"]["stages"]] == [0, 1, 9, 10, 15, 19]
    assert made["model"]["guide"]["share"] == 1 and made["model"]["plugin"]["repair"] is None
    assert made["trainer"]["max_steps"] == 1500
