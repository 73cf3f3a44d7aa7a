"""The exported folder as a stranger may hand it over: what is refused, and how it is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rcp
from rcp.pruners import PRUNERS
from tests.full_disk import full_disk
from tests.tiny import reference_plugin, tiny_llava_model


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


def stage(method, arguments):
    return {"layer": 1, "ratio": 0.5, "method": method, "arguments": arguments}


WRAPPED = stage("debiased", {"method": "oracle", "arguments": {"layers": [1.5]}})


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
    change_weights(saved, lambda t: t.update({"pruners.1.bias": torch.tensor(1e300).double()}))
    with pytest.raises(rcp.UserError, match="not finite"):  # as the plug-in's own float32
        rcp.load_plugin(saved)
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
        (lambda d: d.update(format_version="1"), "format version '1'"),
        (lambda d: d.update(format_version=True), "format version True"),
        (lambda d: d.pop("plugin"), "damaged"),
        (lambda d: d["plugin"].update(colour="red"), "'colour'"),
        (lambda d: d["plugin"]["stages"][0].update(method="os.system"), "os.system"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(inner="x"), "inner is 'x'"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(inner=10**8), "belong"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(heads=0), "does not take"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(heads=3), "3 heads"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(heads=-2), "heads is -2"),
        (lambda d: d["plugin"]["stages"][0]["arguments"].update(dropout=float("nan")), "a finite"),
        (lambda d: d["plugin"]["stages"][0].update(ratio=float("nan")), "nan"),
        (lambda d: d["plugin"]["repair"].update(layers=[3, 3]), "a layer twice"),
        (lambda d: d["plugin"]["repair"]["arguments"].update(side=0), "side is 0"),
        (lambda d: d["plugin"].update(lora={"rank": 0, "modules": {"a": [2, 2]}}), "rank is 0"),
        (lambda d: d["plugin"].update(lora={"modules": {"a": [2]}}), r"'a' the sizes \[2\]"),
        (lambda d: d["plugin"].update(lora={"modules": {"": [2, 2]}}), "'' the sizes"),
        (lambda d: d["plugin"].update(lora={"modules": {"keys": [2, 2]}}), "'keys' with .*made"),
        (lambda d: d["plugin"].update(lora={"modules": {"a": [2, 10**30]}}), "'a' with .*Overflow"),
        (lambda d: d["plugin"].update(stages=[], repair=None, budgets=[0.1, 0.5]), "no budgets"),
        (lambda d: d["plugin"].update(stages=[stage("random", {"seed": 2**70})]), "seed is"),
        (lambda d: d["plugin"].update(stages=[stage("zoo_prune", {"seed": -1})]), "seed is -1"),
        (lambda d: d["plugin"].update(stages=[stage("holov", {"crops": 10**12})]), "crops is"),
        (lambda d: d["plugin"].update(stages=[stage("feather", {"stride": 10**30})]), "stride is"),
        (lambda d: d["plugin"].update(stages=[WRAPPED]), r"layers is '1\.5'"),
        (lambda d: d["base"]["samples"].update({"first norm": [10**400]}), "a finite float"),
        (lambda d: d.update(hidden_size=-1), "hidden_size is -1"),
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


def test_what_is_refused_has_cost_no_memory(saved, monkeypatch):
    """Sizes are a stranger's, too: were it built to be refused, it could take all there is."""
    devices = []

    class Noted(rcp.Plugin):
        def __init__(self, *arguments):
            devices.append(torch.empty(0).device.type)
            super().__init__(*arguments)

    monkeypatch.setattr("rcp.folder.weights.Plugin", Noted)
    change_description(saved, lambda d: d["plugin"]["repair"].update(layers=[77]))
    with pytest.raises(rcp.UserError, match="77"):
        rcp.load_plugin(saved)
    assert devices == ["meta"]


@pytest.fixture
def looks_at_values():
    class Looking(rcp.Pruner):
        """Cannot be made without memory."""

        name = "looks_at_values"

        def __init__(self, hidden_size):
            super().__init__(hidden_size)
            self.bound = float(torch.ones(hidden_size).sum())

    yield Looking.name
    PRUNERS._classes.pop(Looking.name)


def test_a_method_that_looks_at_values_while_it_is_made_loads(
    looks_at_values, tiny_llava, tmp_path
):
    spec = rcp.PluginSpec([rcp.StageSpec(1, 0.5, looks_at_values)])
    rcp.save_plugin(rcp.Plugin.for_model(spec, tiny_llava), tmp_path / "plugin")
    assert rcp.load_plugin(tmp_path / "plugin").pruner(1).bound == 48


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "does not describe a plug-in"),
        ("null", "does not describe a plug-in"),
        ('{"format_version": 1, "base": 1, "base": null}', "'base' twice"),
        ("[" * 100_000, "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_is_no_description_is_refused(saved, text, message):
    (saved / "plugin.json").write_text(text)
    with pytest.raises(rcp.UserError, match=message):
        rcp.load_plugin(saved)


def test_unknown_fields_warn_by_name(saved):
    change_description(saved, lambda d: d.update(stranger=1))
    with pytest.warns(UserWarning, match="stranger"):
        rcp.load_plugin(saved)


def test_eight_bit_weights_are_read_as_what_they_stand_for(saved):
    eighths = {name: value.to(torch.float8_e4m3fn)
               for name, value in load_file(saved / "plugin.safetensors").items()}
    save_file(eighths, saved / "plugin.safetensors")
    assert all(p.dtype == torch.float32 for p in rcp.load_plugin(saved).parameters())


@pytest.mark.parametrize("base", ["none", "without a name"])
def test_a_folder_that_names_no_base_cannot_bring_it(saved, base: str):
    change_description(saved, lambda d: d["base"].update(name_or_path=""))
    if base == "none":
        change_description(saved, lambda d: d.update(base=None))
    with pytest.raises(rcp.UserError, match="does not name its base model. Name it, as in"):
        rcp.load(saved)


def test_a_place_that_is_no_folder_is_refused(saved, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", saved / "plugin.json", tmp_path / "gone", "x" * 5000):
        with pytest.raises(rcp.UserError, match="no exported plug-in"):
            rcp.load_plugin(place)


@pytest.mark.parametrize("room", [0, 1000, 20_000])
def test_what_cannot_be_written_is_told_and_leaves_nothing(tiny_llava, tmp_path, room):
    plugin = reference_plugin("rcp", tiny_llava)
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(rcp.UserError, match="cannot be written"):
        rcp.save_plugin(plugin, tmp_path / "file" / "plugin")
    with pytest.raises(rcp.UserError, match="exists already"):
        rcp.save_plugin(plugin, tmp_path / "dangling")
    with full_disk(room), pytest.raises(rcp.UserError, match="cannot be written .*too large"):
        rcp.save_plugin(plugin, tmp_path / "plugin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "file"]


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
