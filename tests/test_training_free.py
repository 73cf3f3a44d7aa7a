"""Methods without training, found through the registry: attached, exported, composed."""

import json

import pytest
import torch

import rcp
from rcp.__main__ import main
from rcp.attaching.forwards.entry import entry_facts
from rcp.backbones import backbone_for
from rcp.choosing.view import LOOKS_BACK
from rcp.pruners import PRUNERS
from tests.decoding import dropped, error, family, logits, masked
from tests.families import FAMILIES, Sample
from tests.families.batches import BATCHES, text_of
from tests.tiny import tiny_inputs, tiny_llava_model
from tests.tiny_base import make_processor


def free() -> list[str]:
    """Names of the methods without weights."""
    return [name for name in PRUNERS.names() if not PRUNERS.get(name).learned]


def plugin_of(name: str, model, ratios=(0.5, 0.2)) -> rcp.Plugin:
    """``name`` before the decoder and at layer 3; at 1 and 3 if it looks back a layer."""
    try:
        stages = [rcp.StageSpec(at, ratio, name) for at, ratio in zip((0, 3), ratios)]
        return rcp.Plugin.for_model(rcp.PluginSpec(stages), model).eval()
    except rcp.UserError:
        stages = [rcp.StageSpec(at, ratio, name) for at, ratio in zip((1, 3), ratios)]
        return rcp.Plugin.for_model(rcp.PluginSpec(stages), model).eval()


@pytest.mark.parametrize("name", free())
def test_generate_equals_the_masked_model_and_the_rows_alone(name):
    case = family("llava-llama")
    plugin = plugin_of(name, case.model)
    samples = (Sample(0), Sample(1, images=2, question=9))
    together = dropped(case, plugin, case.inputs(samples)).sequences
    assert torch.equal(together, masked(case, plugin, case.inputs(samples)).sequences)
    for row, sample in enumerate(samples):
        alone = dropped(case, plugin, case.inputs((sample,))).sequences
        assert torch.equal(together[row, -4:], alone[0, -4:])


@pytest.mark.parametrize("name", free())
def test_exported_without_weights_it_makes_the_same_choice(name, tmp_path):
    model, inputs = tiny_llava_model(), tiny_inputs()
    plugin = plugin_of(name, model)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    loaded = rcp.load_plugin(tmp_path / "plugin")
    assert not list(loaded.parameters())
    alive = []
    for one in (plugin, loaded):
        with torch.no_grad(), rcp.attach(model, one) as handle, handle.trace() as trace:
            model(**inputs)
        alive.append(trace.plan.alive)
    assert torch.equal(*alive)
    assert trace.plan.kept.tolist() == [[8, 8], [3, 3]]


@pytest.mark.parametrize("margin", [None, 1.5])
@pytest.mark.parametrize("name", free())
def test_a_repair_is_trained_behind_the_choice_of_inference(name, margin):
    """Noise and softness are for weights to learn from, and there are none."""
    case = family("llava-llama")
    plugin, inputs = plugin_of(name, case.model), case.inputs(BATCHES["ragged"])
    text = text_of(inputs, backbone_for(case.model))
    relaxation = rcp.Relaxation(noise=1.0, margin=margin, hard=False)
    with torch.no_grad(), rcp.attach(case.model, plugin, "soft", relaxation=relaxation):
        soft = case.model(**inputs).logits[text]
    assert error(logits(case, plugin, "drop", inputs)[text], soft) < 1e-5


def works(name: str, family_name: str) -> bool:
    """Whether a method runs on a family, dropping as it masks; else it is refused by name."""
    case = family(family_name)
    plugin = plugin_of(name, case.model)
    try:
        entry_facts(backbone_for(case.model), plugin)
    except rcp.UserError as refusal:
        assert any(f"'{need}'" in str(refusal) for need in PRUNERS.get(name).needs)
        with pytest.raises(rcp.UserError):
            rcp.attach(case.model, plugin)
        return False
    inputs = case.inputs(BATCHES["ragged"])
    text = text_of(inputs, backbone_for(case.model))
    soft, drop = (logits(case, plugin, mode, inputs)[text] for mode in ("soft", "drop"))
    assert error(drop, soft) < 1e-5
    return True


@pytest.mark.parametrize("name", free())
def test_it_works_on_other_families_or_says_why_not(name):
    assert [family for family in ("llava_next", "qwen2_5_vl") if works(name, family)] or (
        PRUNERS.get(name).needs
    )


@pytest.mark.slow
@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("name", free())
def test_it_works_on_every_family_or_says_why_not(name, family_name):
    assert works(name, family_name) or PRUNERS.get(name).needs, "only a missing fact may stop it"


def save_base(model, folder):
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)


def test_methods_compose_and_none_is_left_past_the_horizon(tmp_path, capsys):
    """DivPrune at the entrance, random in the middle, nothing visual in the last layers."""
    model = tiny_llava_model()
    save_base(model, tmp_path / "base")
    stages = ["--stage", "0:divprune:8", "--stage", "2:random:0.25:seed=3", "--stage", "4:random:0"]
    folder = tmp_path / "plugin"
    line = ["compose", "--base", str(tmp_path / "base"), "--output", str(folder), *stages]
    assert main(line) == 0
    assert "mean over layers" in capsys.readouterr().out
    written = json.loads((folder / "plugin.json").read_text())["plugin"]["stages"]
    assert [(s["layer"], s["method"], s["ratio"]) for s in written] == [
        (0, "divprune", 0.5), (2, "random", 0.25), (4, "random", 0.0)
    ]
    assert written[1]["arguments"] == {"seed": 3}
    plugin, inputs = rcp.load_plugin(folder), tiny_inputs(images=(1, 2))
    plans, outputs = [], []
    for mode in ("soft", "drop"):
        with torch.no_grad(), rcp.attach(model, plugin, mode) as handle, handle.trace() as trace:
            outputs.append(model(**inputs).logits[:, -1])
        plans.append(trace.plan)
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5
    assert plans[1].kept.tolist() == plans[0].kept.tolist() == [[8, 16], [4, 8], [0, 0]]
    with rcp.attach(model, plugin):
        cache = model.generate(
            **inputs, max_new_tokens=3, return_dict_in_generate=True
        ).past_key_values
    rows = [layer.keys.shape[2] for layer in cache.layers]
    assert rows[0] - rows[2] == 8 and rows[2] - rows[4] == 8 and rows[5] == rows[4]


@pytest.mark.parametrize(
    "stage, word",
    [
        ("divprune", "LAYER:METHOD:KEEP"),
        ("0:divprune:99", "1 to 16"),
        ("0:divprune:1.5:x", "NAME=VALUE"),
        ("0:divprune:0.5:x=1", "does not take"),
        ("0:no_such:0.5", "no_such"),
        ("9:divprune:0.5", "outside the model"),
        ("0:rcp:0.5", "weights to train"),
    ],
)
def test_stages_that_cannot_be_are_refused(stage, word, tmp_path, capsys):
    model = tiny_llava_model()
    save_base(model, tmp_path / "base")
    folder = tmp_path / "plugin"
    line = ["compose", "--base", str(tmp_path / "base"), "--output", str(folder), "--stage", stage]
    assert main(line) == 2
    assert word in capsys.readouterr().err and not folder.exists()


def test_a_method_that_looks_back_is_refused_at_layer_0():
    model = tiny_llava_model()
    backward = [name for name in free() if PRUNERS.get(name).needs & LOOKS_BACK]
    assert "fastv" in backward
    with pytest.raises(rcp.UserError, match="layer 0"):
        rcp.Plugin.for_model(rcp.PluginSpec([rcp.StageSpec(0, 0.5, "fastv")]), model)
