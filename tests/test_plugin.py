"""The plug-in: specs, gradients, saving (design invariants 5, 6 and 8)."""

import pytest
import torch
from torch import nn

import rcp
from rcp.plugin import Plugin
from tests.tiny import rcp_spec, reference_plugin, tiny_inputs, tiny_llava_model
from tests.tiny_base import make_processor


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
    make_processor().save_pretrained(tmp_path / "base")
    loaded, processor = rcp.load(tmp_path / "plugin")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, drop_logits(base, plugin, inputs))
    assert processor.tokenizer.get_vocab() == make_processor().tokenizer.get_vocab()
    (tmp_path / "base" / "config.json").write_text("[1]")
    with pytest.raises(rcp.UserError, match="Unrecognized model .*or load it yourself"):
        rcp.load(tmp_path / "plugin")


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
