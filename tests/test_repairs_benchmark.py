"""benchmarks/repairs.py: every row is a plug-in that can be trained, and what a row costs."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

import rcp
from benchmarks import repairs
from benchmarks.questions import pruners_at
from benchmarks.variants import CONFIGS, read_configuration
from rcp.plugin import Plugin, PluginSpec, RepairSpec
from rcp.repair import REPAIRS
from tests.tiny import randomised, rcp_spec, reference_plugin, tiny_inputs, tiny_llava_model

ROOT = Path(__file__).parent.parent


def made(name: str, ratio: float = 1 / 9) -> dict:
    recipe = read_configuration(ROOT / CONFIGS / repairs.RECIPE)
    return repairs.configured(recipe, name, ratio, Path("guide"))


@pytest.mark.parametrize("name", repairs.REPAIRS)
def test_a_row_is_a_plugin_of_one_stage_that_the_guide_has_taught(name: str):
    configuration = made(name)
    parser = ArgumentParser()
    parser.add_class_arguments(PluginSpec, "plugin")
    spec = parser.instantiate(
        parser.parse_object({"plugin": configuration["model"]["plugin"]})
    ).plugin
    (stage,) = spec.stages
    assert (stage.layer, stage.method, stage.ratio) == (0, "rcp", 1 / 9)
    # the guide's pruner is taken where its arguments agree
    recipe = read_configuration(ROOT / CONFIGS / repairs.RECIPE)
    assert stage.arguments == recipe["model"]["plugin"]["stages"][0]["arguments"]
    assert (spec.repair is None) == (name == "LoRA") != (spec.lora is None)
    if spec.repair is not None:
        filled = {"features": 4} if spec.repair.method == "vision_remember" else {}
        arguments = {**filled, **spec.repair.arguments}
        REPAIRS.get(spec.repair.method)(16, spec.repair.layers, **arguments)


def test_rows_learn_alike_from_fresh_questions():
    """Rows differ in the plug-in and in the weight of the statistics' gap, and in nothing else."""
    rests = []
    for name in repairs.REPAIRS:
        row = made(name)
        assert row["data"]["train"] == "generated" and row["model"]["guide"] is None
        assert row["model"]["teacher_cache"] is None
        row["model"]["plugin"], row["model"]["loss"] = None, None
        rests.append(row)
    assert all(rest == rests[0] for rest in rests)


def test_every_repair_has_a_row():
    methods = {row.plugin["repair"].get("method", "film")
               for row in repairs.REPAIRS.values() if "repair" in row.plugin}
    assert methods == set(REPAIRS.names())


@pytest.mark.parametrize(
    ("method", "arguments", "state", "parameters"),
    [
        # contexts are float32; D = 48 in the tiny model
        ("adapter", {"inner": 8}, 0, 2 * (48 * 8 + 8 + 8 * 48 + 48)),
        ("memory", {"slots": 3, "width": 8}, 3 * 8 * 4,
         3 * 8 + 2 * 48 * 8 + 2 * (48 * 8 + 8 + 8 * 48)),
        ("film", {"inner": 8, "side": 4, "channels": 4}, 8 * 4, None),
        ("film", {"inner": 8, "context": False}, 0, None),
        # four windows of eight numbers, and of each whether any were dropped there
        ("vision_remember", {"side": 2, "width": 8}, 4 * (8 + 1) * 4, None),
    ],
)
def test_what_a_repair_costs_by_hand(method, arguments, state, parameters):
    model = tiny_llava_model()
    width = model.config.get_text_config().hidden_size
    repair = RepairSpec([2, 4], method, arguments, "text")
    plugin = Plugin.for_model(PluginSpec(rcp_spec(layers=(1,)).stages, repair), model)
    assert repairs.state_bytes(plugin) == state
    if parameters is not None:
        assert width == 48
        assert repairs.learned_besides_pruners(plugin) == parameters


def test_pruners_alone_cost_nothing_more():
    plugin = Plugin.for_model(PluginSpec(rcp_spec(layers=(1,)).stages), tiny_llava_model())
    assert repairs.state_bytes(plugin) == 0 == repairs.learned_besides_pruners(plugin)


def test_a_table_compares_within_a_budget_and_with_the_control():
    table = repairs.Table(["counting", "reading", "counting", "reading"])
    table.add("full model", [True, True, True, True])
    table.add("N/9 no repair", [False, False, False, True])
    table.add("N/9 adapter", [True, True, False, True])
    table.add("all tokens adapter", [True, True, True, False])
    *_, alone, repaired, control = table.rows
    assert repaired["accuracy"] == 0.75 and repaired["counting"] == 0.5
    assert repaired["p"] == 0.5  # two questions won, none lost: 2 / 4
    assert control["p"] == 1.0  # against the full model, one lost
    assert table.kept_of_control(repaired) == 1.0  # 0.75 of 0.75
    assert table.kept_of_control(alone) is None and table.kept_of_control(control) is None


def test_the_first_stages_of_a_plugin_are_taken_alone(tmp_path: Path):
    taught = reference_plugin("rcp", tiny_llava_model(), repair=(3,))
    rcp.save_plugin(taught, tmp_path / "plugin")
    first = taught.spec.stages[0]
    alone = pruners_at(tmp_path / "plugin", [0.25])
    assert [(s.layer, s.ratio) for s in alone.spec.stages] == [(first.layer, 0.25)]
    own, theirs = (p.pruner(first.layer).state_dict() for p in (alone, taught))
    assert own and all(torch.equal(own[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("film", {"inner": 8, "side": 4, "channels": 4}), ("film", {"inner": 8, "context": False}),
     ("adapter", {"inner": 8}), ("memory", {"slots": 3, "width": 8}),
     ("vision_remember", {"side": 2, "width": 8})],
)
def test_a_control_acts_where_all_tokens_are_kept_but_for_a_memory(tiny_llava, name, arguments):
    """A control whose repair did nothing would be the full model, whatever it had learned."""
    stages = rcp_spec(layers=(0,), ratios=(1.0,)).stages
    spec = PluginSpec(stages, RepairSpec([2, 4], name, arguments, "text"))
    plugin, inputs = randomised(Plugin.for_model(spec, tiny_llava)), tiny_inputs()
    with torch.no_grad():
        full = tiny_llava(**inputs).logits[:, -1]
        with rcp.attach(tiny_llava, plugin, "drop"):
            found = tiny_llava(**inputs).logits[:, -1]
    gap = (found - full).abs().max()
    controlled = {
        row.plugin["repair"].get("method", "film"): row.controlled
        for row in repairs.REPAIRS.values() if "repair" in row.plugin
    }
    assert gap > 1e-3 if controlled[name] else gap < 1e-5
