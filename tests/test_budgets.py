"""One plug-in for many budgets: chosen when it is attached, refused outside what it learned."""

from pathlib import Path

import pytest
import torch

import rcp
from rcp import Plugin, RepairSpec, StageSpec
from rcp.choosing.schedule import schedule_for
from rcp.plugin import PluginSpec, stages_of
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, TOKENS, randomised, tiny_llava_model
from tests.tiny_base import make_processor


def spec(**changes: object) -> PluginSpec:
    stages = [StageSpec(1, 0.5, "rcp", RCP_ARGUMENTS), StageSpec(3, 0.2, "rcp", RCP_ARGUMENTS)]
    repair = RepairSpec([4], "film", FILM_ARGUMENTS)
    values = {"stages": stages, "repair": repair, "budgets": [0.3, 0.8], **changes}
    return PluginSpec(**values)  # type: ignore[arg-type]


@pytest.fixture
def plugin(tiny_llava) -> Plugin:
    return randomised(Plugin.for_model(spec(), tiny_llava))


def kept(model, plugin, inputs, **arguments):
    with torch.no_grad(), rcp.attach(model, plugin, "drop", **arguments) as handle:
        with handle.trace() as trace:
            logits = model(**inputs).logits
    assert trace.plan is not None
    visual = trace.plan.alive & trace.plan.visual
    return logits, visual.sum(2)[:, 0].tolist()


def test_a_budget_is_that_of_the_schedule(tiny_llava, plugin, inputs):
    for ratio in (0.3, 0.5, 0.8):
        schedule = schedule_for(ratio, (1, 3), 6, decay=0.4)
        _, counts = kept(tiny_llava, plugin, inputs, budget=ratio)
        assert counts == [schedule.count(stage, TOKENS) for stage in (0, 1)]
    assert kept(tiny_llava, plugin, inputs)[1] == [8, 3]  # its own, when none is asked for
    assert kept(tiny_llava, plugin, inputs, budget=8)[1] == kept(
        tiny_llava, plugin, inputs, budget=0.5
    )[1]


def test_the_weights_are_those_of_a_plugin_with_that_schedule(tiny_llava, plugin, inputs):
    schedule = schedule_for(0.6, (1, 3), 6, decay=0.4)
    stages = [StageSpec(at, r, "rcp", RCP_ARGUMENTS) for at, r in zip((1, 3), schedule.ratios)]
    other = Plugin.for_model(spec(stages=stages, budgets=None), tiny_llava).eval()
    other.load_state_dict(plugin.state_dict())
    chosen, _ = kept(tiny_llava, plugin, inputs, budget=0.6)
    assert torch.equal(chosen, kept(tiny_llava, other, inputs)[0])
    assert plugin.schedule.ratios == (0.5, 0.2)  # choosing left it as it was


@pytest.mark.parametrize("budget", [0.25, 0.9, 3, 15])
def test_what_was_not_trained_for_is_refused(tiny_llava, plugin, budget: float):
    with pytest.raises(rcp.UserError, match="trained for, which is budgets of 30.00% to 80.00%"):
        rcp.attach(tiny_llava, plugin, budget=budget)


def test_a_plugin_of_one_budget_has_only_that(tiny_llava, inputs):
    single = randomised(Plugin.for_model(spec(budgets=None), tiny_llava))
    assert kept(tiny_llava, single, inputs, budget=single.mean_ratio)[1] == [8, 3]
    with pytest.raises(rcp.UserError, match="the one budget of 43.33%"):
        rcp.attach(tiny_llava, single, budget=0.5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budgets": [0.8, 0.3]}, "the lower first"),
        ({"budgets": [0.3]}, "give two shares"),
        ({"budgets": [0.1, 0.8]}, "out of reach"),
        ({"budgets": [0.5, 0.8]}, "43.33% .* 50.00% to 80.00%"),
        ({"selection": "threshold"}, "selection: top_k"),
        ({"repair": RepairSpec([4], "film", FILM_ARGUMENTS, rows="all")}, "'answer' or 'text'"),
    ],
)
def test_impossible_ranges_are_refused(tiny_llava, changes: dict[str, object], named: str):
    with pytest.raises(rcp.UserError, match=named):
        Plugin.for_model(spec(**changes), tiny_llava)


def test_the_range_is_saved(tiny_llava, plugin, inputs, tmp_path: Path):
    rcp.save_plugin(plugin, tmp_path / "plugin")
    read = rcp.load_plugin(tmp_path / "plugin")
    expected, actual = (kept(tiny_llava, p, inputs, budget=0.6)[0] for p in (plugin, read))
    assert read.spec.budgets == [0.3, 0.8] and torch.equal(expected, actual)


def test_a_loaded_model_keeps_the_budget_asked_for(inputs, tmp_path: Path):
    model = tiny_llava_model()
    model.save_pretrained(tmp_path / "base")
    make_processor().save_pretrained(tmp_path / "base")
    base = type(model).from_pretrained(tmp_path / "base").eval()
    plugin = randomised(Plugin.for_model(spec(), base))
    rcp.save_plugin(plugin, tmp_path / "plugin")
    loaded, _ = rcp.load(tmp_path / "plugin", budget=0.6)
    with torch.no_grad():
        found = loaded(**inputs).logits
    assert torch.equal(found, kept(base, plugin, inputs, budget=0.6)[0])
    assert not torch.equal(found, kept(base, plugin, inputs)[0])


def test_repair_of_all_text_is_one_function_in_all_modes(tiny_llava, inputs):
    """Masked, dropped and decoded alike; answer rows alone give other numbers."""
    results = []
    for rows in ("text", "answer"):
        repair = RepairSpec([4], "film", FILM_ARGUMENTS, rows=rows)
        plugin = randomised(Plugin.for_model(spec(repair=repair), tiny_llava))
        dropped, _ = kept(tiny_llava, plugin, inputs)
        with torch.no_grad(), rcp.attach(tiny_llava, plugin, "soft") as handle:
            with handle.prompt(inputs["input_ids"].shape[1]):
                masked = tiny_llava(**inputs, use_cache=False).logits
        text = (inputs["input_ids"] != 99) & inputs["attention_mask"].bool()
        last = torch.zeros_like(text)
        last[:, -1] = True
        torch.testing.assert_close(dropped[:, -1], masked[:, -1], atol=1e-5, rtol=1e-5)
        results.append(masked[text & ~last])
    assert (results[0] - results[1]).abs().max() > 0.01


def test_a_stage_of_nothing_has_no_weights_and_leaves_nothing(tiny_llava, inputs):
    schedule = schedule_for(0.4, (1,), 6, wiped_from=3)
    wiped = spec(stages=stages_of(schedule, "rcp", **RCP_ARGUMENTS), repair=None, budgets=None)
    plugin = Plugin.for_model(wiped, tiny_llava).eval()
    assert not list(plugin.pruner(3).parameters()) and list(plugin.pruner(1).parameters())
    # six layers at 0.4 are 2.4 whole ones, one of which is the first: 0.7 in each of two
    assert kept(tiny_llava, plugin, inputs)[1] == [schedule.count(0, TOKENS), 0]
    assert schedule.ratios == pytest.approx((0.7, 0.0))
