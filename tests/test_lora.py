"""Low-rank adapters: a part of the plug-in in every mode, and a stock PEFT folder beside it."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

import rcp
from rcp.plugin import Plugin
from tests.tiny import randomised, rcp_spec, tiny_llava_model

LORA = rcp.LoraSpec(rank=2, targets=["q_proj", "v_proj", "down_proj"], layers=[0, 3, 4])


def plugin_with_lora(model: nn.Module, lora: rcp.LoraSpec = LORA) -> Plugin:
    spec = rcp_spec()
    spec.lora = lora
    return randomised(Plugin.for_model(spec, model))


def logits(model: nn.Module, plugin: Plugin, inputs: dict[str, Tensor], mode: str) -> Tensor:
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 7
    with torch.no_grad(), rcp.attach(model, plugin, mode):
        return model(**inputs, labels=labels).logits[:, -1]


def test_dropping_equals_masking_and_the_model_is_left_as_it_was(tiny_llava, inputs):
    before = tiny_llava(**inputs).logits
    hooks = [len(module._forward_hooks) for module in tiny_llava.modules()]
    plugin = plugin_with_lora(tiny_llava)
    soft, drop = (logits(tiny_llava, plugin, inputs, mode) for mode in ("soft", "drop"))
    torch.testing.assert_close(drop, soft, atol=1e-5, rtol=1e-5)
    for pair in plugin.lora.pairs.values():
        nn.init.zeros_(pair.up.weight)
    assert (logits(tiny_llava, plugin, inputs, "drop") - drop).abs().max() > 0.1
    assert torch.equal(tiny_llava(**inputs).logits, before)
    assert hooks == [len(module._forward_hooks) for module in tiny_llava.modules()]


def test_adapters_have_the_models_precision_to_drop_and_their_own_to_learn(tiny_llava):
    plugin = plugin_with_lora(tiny_llava)
    tiny_llava.to(torch.bfloat16)
    for mode, dtype in (("soft", torch.float32), ("drop", torch.bfloat16)):
        with rcp.attach(tiny_llava, plugin, mode):
            assert {parameter.dtype for parameter in plugin.lora.parameters()} == {dtype}


def test_the_teacher_runs_without_the_adapters(tiny_llava, inputs):
    plugin = plugin_with_lora(tiny_llava)
    own = tiny_llava(**inputs).logits[:, -1]
    assert torch.equal(logits(tiny_llava, plugin, inputs, "record"), own)


def test_saved_adapters_are_loaded_by_us_and_by_stock_peft(tiny_llava, inputs, tmp_path: Path):
    plugin = plugin_with_lora(tiny_llava)
    expected = logits(tiny_llava, plugin, inputs, "drop")
    rcp.save_plugin(plugin, tmp_path / "plugin")
    assert torch.equal(
        logits(tiny_llava, rcp.load_plugin(tmp_path / "plugin"), inputs, "drop"), expected
    )
    PeftModel.from_pretrained(tiny_llava, tmp_path / "plugin" / "lora")  # injects in place
    without = Plugin(rcp_spec(), plugin.hidden_size, plugin.num_layers)
    without.load_state_dict(
        {name: v for name, v in plugin.state_dict().items() if not name.startswith("lora.")}
    )
    torch.testing.assert_close(
        logits(tiny_llava, without.eval(), inputs, "drop"), expected, atol=1e-5, rtol=1e-5
    )


def test_a_base_that_carries_an_adapter_already(inputs):
    """Its own adapter stays on, also for the teacher, and the plug-in's is added to it."""
    model = tiny_llava_model()
    config = LoraConfig(
        r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False
    )
    model.add_adapter(config)
    model.eval()
    own = model(**inputs).logits[:, -1]
    assert (own - tiny_llava_model()(**inputs).logits[:, -1]).abs().max() > 1e-3
    plugin = plugin_with_lora(model)
    assert torch.equal(logits(model, plugin, inputs, "record"), own)
    soft, drop = (logits(model, plugin, inputs, mode) for mode in ("soft", "drop"))
    torch.testing.assert_close(drop, soft, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(**inputs).logits[:, -1], own)


def test_a_specification_that_names_no_modules_is_refused():
    """Silently training nothing would be worse."""
    spec = rcp_spec()
    spec.lora = LORA
    with pytest.raises(rcp.UserError, match="Plugin.for_model"):
        Plugin(spec, 48, 6)


def test_adapters_for_modules_of_another_kind_are_refused_and_leave_no_hook(tiny_llava, inputs):
    plugin = plugin_with_lora(tiny_llava)
    before = tiny_llava(**inputs).logits
    own = dict(plugin.lora.spec.modules)
    layer = "model.language_model.layers.0"
    for name, sizes in (("self_attn.q_proj", [5, 7]), ("self_attn", [48, 48]), ("gone", [2, 2])):
        spec = rcp_spec()
        spec.lora = rcp.LoraSpec(rank=2, modules={**own, f"{layer}.{name}": sizes})
        other = Plugin(spec, plugin.hidden_size, plugin.num_layers)
        with pytest.raises(rcp.UserError, match=f"{layer}.{name}' with {sizes[0]} and {sizes[1]}"):
            rcp.attach(tiny_llava, other)
        assert torch.equal(tiny_llava(**inputs).logits, before)


def test_gradients_reach_every_adapter_and_a_fresh_one_changes_nothing(tiny_llava, inputs):
    spec = rcp_spec(repair=())
    fresh = Plugin.for_model(spec, tiny_llava)
    spec.lora = LORA
    plugin = Plugin.for_model(spec, tiny_llava)
    plugin.pruners.load_state_dict(fresh.pruners.state_dict())
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 7
    outputs = []
    for some in (fresh.eval(), plugin.eval()):
        with rcp.attach(tiny_llava, some, "soft"):
            outputs.append(tiny_llava(**inputs, labels=labels).logits)
    assert torch.equal(*outputs)
    randomised(plugin)
    with rcp.attach(tiny_llava, plugin, "soft"):
        tiny_llava(**inputs, labels=labels).logits.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in plugin.lora.parameters())
    assert all(parameter.grad is None for parameter in tiny_llava.parameters())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"targets": ["c_attn"]}, "no linear module of that name. It has: .*q_proj"),
        ({"layers": [6]}, "layer 6, but the decoder has 6 layers"),
        ({"rank": 0}, "lora.rank is 0"),
        ({"alpha": float("nan")}, "LoraSpec.alpha is 'nan', but it must be a finite"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes, complaint, tiny_llava):
    with pytest.raises(rcp.UserError, match=complaint):
        plugin_with_lora(tiny_llava, rcp.LoraSpec(**changes))
