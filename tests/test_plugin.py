"""The plug-in: specs, gradients, saving, refusals (design invariants 5, 6 and 8)."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rcp
from rcp.plugin import Plugin
from tests.tiny import rcp_spec, reference_plugin, tiny_inputs, tiny_llava_model


def drop_logits(model, plugin, inputs):
    with torch.no_grad(), rcp.attach(model, plugin, "drop"):
        return model(**inputs).logits


def test_every_parameter_learns_and_no_frozen_one_does(tiny_llava):
    """After a no-grad pass first: a state left behind by it would cut the graph."""
    inputs = tiny_inputs(side="right")
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    labels[:, :-4] = -100
    tiny_llava.requires_grad_(True)
    tiny_llava.requires_grad_(False)
    plugin = reference_plugin("rcp", tiny_llava).eval()
    relaxation = rcp.Relaxation(temperature=1.0)
    before = [p.clone() for p in tiny_llava.parameters()]
    with rcp.attach(tiny_llava, plugin, "soft", relaxation=relaxation):
        with torch.no_grad():
            tiny_llava(**inputs, labels=labels, use_cache=False)
        tiny_llava(**inputs, labels=labels, use_cache=False).loss.backward()
    silent = [n for n, p in plugin.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(p.grad is None for p in tiny_llava.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_llava.parameters()))


class WeightsOnCallOnly:
    """As ZeRO-3 does: a parameter is there only inside its own module's ``forward``."""

    def __init__(self, *roots: nn.Module) -> None:
        self.modules = [m for root in roots for m in root.modules() if m._parameters]
        self.handles = []
        self.hidden = {}

    def __enter__(self):
        for module in self.modules:
            self._hide(module)
            self.handles.append(module.register_forward_pre_hook(self._show, prepend=True))
            self.handles.append(module.register_forward_hook(self._hide, always_call=True))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
        for module in self.modules:
            self._show(module)

    def _hide(self, module, *_):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.numel():
                self.hidden[id(parameter)] = parameter.data
                parameter.data = torch.empty(0)

    def _show(self, module, *_):
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) in self.hidden:
                parameter.data = self.hidden[id(parameter)]


@pytest.mark.parametrize("mode", ["soft", "drop"])
def test_no_parameter_is_touched_outside_its_owner(tiny_llava, inputs, mode):
    plugin = reference_plugin("rcp", tiny_llava)
    with torch.no_grad(), rcp.attach(tiny_llava, plugin, mode):
        expected = tiny_llava(**inputs).logits
        # the tower reads its own embedding tables in its parents; only what we call is at stake
        decoder = tiny_llava.model.language_model
        with WeightsOnCallOnly(decoder, plugin):
            got = tiny_llava(**inputs).logits
    assert torch.equal(got, expected)


def test_saving_and_loading_gives_the_same_logits(tiny_llava, inputs, tmp_path):
    plugin = reference_plugin("rcp", tiny_llava)
    plugin.training_summary = {"steps": 3}
    rcp.save_plugin(plugin, tmp_path / "plugin")
    loaded = rcp.load_plugin(tmp_path / "plugin")
    expected = drop_logits(tiny_llava, plugin, inputs)
    assert torch.equal(drop_logits(tiny_llava, loaded, inputs), expected)
    assert loaded.training_summary == {"steps": 3} and loaded.spec == plugin.spec
    written = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert written == ["README.md", "plugin.json", "plugin.safetensors"]


def test_load_attaches_for_good(tmp_path, inputs):
    model = tiny_llava_model()
    model.save_pretrained(tmp_path / "base")
    base = type(model).from_pretrained(tmp_path / "base").eval()
    plugin = reference_plugin("rcp", base)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    with pytest.raises(rcp.UserError, match="cannot be loaded"):
        rcp.load(tmp_path / "plugin")  # the base has no processor beside it


@pytest.fixture
def saved(tiny_llava, tmp_path):
    plugin = reference_plugin("rcp", tiny_llava)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    return tmp_path / "plugin"


def change_weights(folder, change):
    tensors = load_file(folder / "plugin.safetensors")
    change(tensors)
    save_file(tensors, folder / "plugin.safetensors")


def change_description(folder, change):
    description = json.loads((folder / "plugin.json").read_text())
    change(description)
    (folder / "plugin.json").write_text(json.dumps(description))


def test_unknown_tensors_warn_by_name(saved):
    change_weights(saved, lambda t: t.update(stranger=torch.zeros(1)))
    with pytest.warns(UserWarning, match="stranger"):
        rcp.load_plugin(saved)


def test_missing_truncated_and_misshapen_tensors_are_refused(saved):
    change_weights(saved, lambda t: t.pop("pruners.1.bias"))
    with pytest.raises(rcp.UserError, match="pruners.1.bias"):
        rcp.load_plugin(saved)
    change_weights(saved, lambda t: t.update({"pruners.1.bias": torch.zeros(7)}))
    with pytest.raises(rcp.UserError, match=r"\[7\]"):
        rcp.load_plugin(saved)
    change_weights(saved, lambda t: t.update({"pruners.1.bias": torch.tensor(torch.nan)}))
    with pytest.raises(rcp.UserError, match="not finite"):
        rcp.load_plugin(saved)
    change_weights(saved, lambda t: t.update({"pruners.1.bias": torch.tensor(1)}))
    with pytest.raises(rcp.UserError, match="int64"):
        rcp.load_plugin(saved)
    file = saved / "plugin.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(rcp.UserError, match="truncated"):
        rcp.load_plugin(saved)
    file.unlink()
    with pytest.raises(rcp.UserError, match="plugin.safetensors is missing"):
        rcp.load_plugin(saved)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(format_version=9), "format version 9"),
        (lambda d: d.pop("plugin"), "damaged"),
        (lambda d: d["plugin"].update(colour="red"), "'colour'"),
        (lambda d: d["plugin"]["stages"][0].update(method="os.system"), "os.system"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(inner="x"), "inner is 'x'"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(inner=10**8), "belong"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(heads=0), "does not take"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(heads=3), "3 heads"),
        (lambda d: d["plugin"]["stages"][0].update(ratio=float("nan")), "nan"),
        (lambda d: d.update(hidden_size=10**9), "belong"),
        (lambda d: d.update(num_layers="6"), "must be int"),
        (lambda d: d.update(base=5), "no place for 5"),
        (lambda d: d.update(training=5), "must be dict"),
        (lambda d: d["plugin"]["stages"][0].update(layer=77), "77"),
        (lambda d: d["plugin"].update(position_policy="sideways"), "sideways"),
    ],
)
def test_hostile_descriptions_are_refused(saved, change, message):
    change_description(saved, change)
    with pytest.raises(rcp.UserError, match=message):
        rcp.load_plugin(saved)


def test_an_existing_folder_is_left_alone_and_failure_leaves_nothing(saved, tiny_llava, tmp_path):
    plugin = reference_plugin("rcp", tiny_llava)
    with pytest.raises(rcp.UserError, match="exists already"):
        rcp.save_plugin(plugin, saved)
    plugin.training_summary = {"not json": object()}
    with pytest.raises(TypeError):
        rcp.save_plugin(plugin, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plugin"]


def test_another_base_is_refused_but_a_cast_one_is_not(saved, tiny_llava, inputs):
    plugin = rcp.load_plugin(saved)
    rcp.attach(tiny_llava.half(), plugin, "drop").remove()
    other = tiny_llava_model()
    other.get_input_embeddings().weight.data.mul_(1.5)
    with pytest.raises(rcp.UserError, match="embedding"):
        rcp.attach(other, plugin)
    with pytest.raises(rcp.UserError, match="num_layers"):
        rcp.attach(tiny_llava_model(num_hidden_layers=5), plugin)
    with pytest.raises(rcp.UserError, match="not a family"):
        rcp.attach(nn.Linear(2, 2), plugin)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(layers=(3, 1)), "must rise"),
        (dict(layers=(1, 6)), "outside the model"),
        (dict(ratios=(0.2, 0.5)), "never rise"),
        (dict(ratios=(1.2, 0.5)), r"\[0, 1\]"),
        (dict(repair=(0,)), "Repair layer 0"),
        (dict(selection="best"), "'best'"),
    ],
)
def test_impossible_specs_are_refused(tiny_llava, changes, message):
    with pytest.raises(rcp.UserError, match=message):
        Plugin.for_model(rcp_spec(**changes), tiny_llava)


def test_threshold_needs_a_learned_pruner(tiny_llava):
    stage = rcp.StageSpec(1, 0.5, "random")
    with pytest.raises(rcp.UserError, match="no learned zero"):
        Plugin.for_model(rcp.PluginSpec([stage], selection="threshold"), tiny_llava)


def test_a_plugin_without_stages_keeps_every_token(tiny_llava, inputs):
    """Its plan has no stage; evaluation counts the tokens of each by it."""
    plugin = Plugin.for_model(rcp.PluginSpec([]), tiny_llava)
    with rcp.attach(tiny_llava, plugin, "drop"):
        plan = rcp.plan_of(tiny_llava(**inputs).past_key_values)
    batch, columns = inputs["input_ids"].shape
    assert plan.alive.shape == (0, batch, columns) and plan.kept.shape == (0, batch)
