"""A model that others have wrapped or adapted: a plug-in acts in it as in the model inside."""

import copy
import json

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftMixedModel,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

import evaluate
import rcp
from rcp.attaching.given_images import encode_images, given_images
from rcp.backbones import backbone_for, unwrapped
from tests.cli import RCP
from tests.tiny import TOKENS, randomised, rcp_spec, reference_plugin, tiny_llava_model

pytest_plugins = ["tests.training_fixtures"]

LINEARS = r".*language_model.*(q_proj|v_proj|down_proj)"
ADAPTERS = {
    "lora": lambda: LoraConfig(r=2, target_modules=LINEARS, init_lora_weights=False),
    "dora": lambda: LoraConfig(r=2, target_modules=LINEARS, use_dora=True),
    "loha": lambda: LoHaConfig(r=2, target_modules=LINEARS, init_weights=False),
    "ia3": lambda: IA3Config(
        target_modules=LINEARS, feedforward_modules=".*down_proj", init_ia3_weights=False
    ),
}
WRAPPERS = {
    "peft": lambda model: get_peft_model(model, ADAPTERS["lora"]()),
    "peft-causal": lambda model: get_peft_model(
        model, LoraConfig(r=2, target_modules=LINEARS, task_type="CAUSAL_LM")
    ),
    "peft-mixed": lambda model: PeftMixedModel(model, ADAPTERS["loha"]()),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "held": lambda model: nn.ModuleDict({"model": model, "head": nn.Linear(2, 2)}),
    "nested": lambda model: torch.compile(
        nn.DataParallel(get_peft_model(model, ADAPTERS["lora"]())), backend="eager"
    ),
}


def in_three_ways(model: nn.Module, plugin: rcp.Plugin, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Last logits (B, V): one forward, the first of ``generate``, and with masks."""
    with torch.no_grad():
        with rcp.attach(model, plugin):
            once = model(**inputs).logits[:, -1]
            made = model.generate(
                **inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
            )
        length = made.sequences.shape[1] - 1
        with rcp.attach(model, plugin, "soft") as handle, handle.prompt(length):
            masked = model(**inputs).logits[:, -1]
    return [once, made.logits[0], masked]


def cached(model: nn.Module, plugin: rcp.Plugin, inputs: dict[str, Tensor]) -> list[int]:
    """Columns that each layer holds after ``generate`` has run the prompt."""
    with torch.no_grad(), rcp.attach(model, plugin):
        made = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
    return [layer.keys.shape[-2] for layer in made.past_key_values.layers]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_model_inside_is_found_and_its_facts_are_the_same(kind):
    model = tiny_llava_model()
    wrapper = WRAPPERS[kind](model)
    assert unwrapped(wrapper) is model and unwrapped(model) is model
    assert backbone_for(wrapper).model is model
    plugin = rcp.Plugin.for_model(rcp_spec(), wrapper)
    assert plugin.base.architecture == "LlavaForConditionalGeneration"


def test_what_holds_two_models_or_none_is_refused_as_it_is():
    two = nn.ModuleList([tiny_llava_model(), tiny_llava_model()])
    assert unwrapped(two) is two
    with pytest.raises(rcp.UserError, match="ModuleList .*not a family"):
        rcp.attach(two, reference_plugin("rcp", two[0]))
    one = nn.ModuleList([two[0], nn.ModuleList([two[0]])])
    assert unwrapped(one) is two[0]  # twice the same


@pytest.mark.parametrize("spec", ["rcp", "question_attention"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_wrapper_drops_in_forward_and_generate_as_the_merged_model(adapter, spec, inputs):
    model = tiny_llava_model()
    wrapper = get_peft_model(model, ADAPTERS[adapter]()).eval().requires_grad_(False)
    own = wrapper(**inputs).logits[:, -1]
    plugin = reference_plugin(spec, wrapper)
    found = in_three_ways(wrapper, plugin, inputs)
    assert (found[0] - own).abs().max() > 0.01
    found += in_three_ways(model, plugin, inputs)[:2]
    merged = copy.deepcopy(wrapper).merge_and_unload()
    found += in_three_ways(merged, plugin, inputs)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-5)
    full = inputs["input_ids"].shape[1]
    gone = [0, TOKENS // 2, TOKENS // 2, *[TOKENS - round(0.2 * TOKENS)] * 3]
    assert cached(wrapper, plugin, inputs) == [full - each for each in gone]
    assert torch.equal(wrapper(**inputs).logits[:, -1], own)


def test_a_learned_prompt_stands_before_the_tokens(inputs):
    sizes = {"num_layers": 6, "token_dim": 48, "num_attention_heads": 4}
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **sizes)
    wrapper = get_peft_model(tiny_llava_model(), config).eval().requires_grad_(False)
    plugin, full = reference_plugin("rcp", wrapper), inputs["input_ids"].shape[1]
    with torch.no_grad():
        with rcp.attach(wrapper, plugin):
            dropped = wrapper(**inputs).logits[:, -1]
        with rcp.attach(wrapper, plugin, "soft") as handle, handle.prompt(full + 3):
            masked = wrapper(**inputs).logits[:, -1]
    torch.testing.assert_close(dropped, masked, atol=1e-5, rtol=1e-5)
    assert cached(wrapper, plugin, inputs)[0] == full + 3


def test_a_learned_prefix_is_refused_by_name_and_the_model_inside_is_not(inputs):
    sizes = {"num_layers": 6, "token_dim": 24, "num_attention_heads": 2}
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **sizes)
    wrapper = get_peft_model(tiny_llava_model(), config).eval()
    plugin = reference_plugin("rcp", wrapper)
    for wrapped in (wrapper, nn.DataParallel(wrapper)):
        with pytest.raises(rcp.UserError, match="prefix that PEFT has learned.*get_base_model"):
            rcp.attach(wrapped, plugin)
    assert len(in_three_ways(wrapper.get_base_model(), plugin, inputs)) == 3


def test_low_rank_adapters_are_named_as_in_the_model_inside(inputs):
    model = tiny_llava_model()
    spec = rcp_spec()
    spec.lora = rcp.LoraSpec(rank=2, targets=["q_proj", "down_proj"], layers=[0, 3])
    expected = rcp.Plugin.for_model(spec, model).spec.lora.modules
    wrapper = get_peft_model(model, ADAPTERS["lora"]()).eval().requires_grad_(False)
    plugin = randomised(rcp.Plugin.for_model(spec, wrapper))
    assert plugin.spec.lora.modules == expected
    once, made, masked = in_three_ways(wrapper, plugin, inputs)
    torch.testing.assert_close(once, masked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(once, made, atol=1e-5, rtol=1e-5)


def test_one_plugin_at_a_time_through_whichever_door(inputs):
    model = tiny_llava_model()
    wrapper = get_peft_model(model, ADAPTERS["lora"]())
    plugin = reference_plugin("rcp", wrapper)
    for first, second in ((wrapper, model), (model, wrapper)):
        with rcp.attach(first, plugin), pytest.raises(rcp.UserError, match="already has a plug-in"):
            rcp.attach(second, plugin)


def test_requests_through_a_wrapper_are_checked_too(inputs):
    wrapper = get_peft_model(tiny_llava_model(), ADAPTERS["lora"]()).eval()
    with rcp.attach(wrapper, reference_plugin("rcp", wrapper)):
        with pytest.raises(rcp.UserError, match="prefill_chunk_size=4"):
            wrapper.generate(**inputs, prefill_chunk_size=4)


@torch.no_grad()
def test_images_encoded_beforehand_reach_the_model_inside(inputs):
    wrapper = get_peft_model(tiny_llava_model(), ADAPTERS["lora"]()).eval()
    features = encode_images(wrapper, inputs)
    expected = wrapper(**inputs).logits
    with given_images(wrapper, features):
        blind = wrapper(**inputs | {"pixel_values": torch.zeros_like(inputs["pixel_values"])})
    assert torch.equal(blind.logits, expected)


def test_a_plugin_made_for_the_base_serves_the_adapted_one_while_that_is_known(inputs, tmp_path):
    model = tiny_llava_model()
    rcp.save_plugin(reference_plugin("rcp", model), tmp_path / "plugin")
    plugin = rcp.load_plugin(tmp_path / "plugin")
    wrapper = get_peft_model(model, ADAPTERS["lora"]()).eval().requires_grad_(False)
    expected = in_three_ways(wrapper, plugin, inputs)[0]
    wrapper.merge_adapter()
    for found in in_three_ways(wrapper, plugin, inputs):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wrapper.unmerge_adapter()
    wrapper.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_llava_model(), tmp_path / "adapter").eval()
    torch.testing.assert_close(in_three_ways(again, plugin, inputs)[1], expected)


@pytest.mark.parametrize("own_processor", [True, False])
def test_an_adapter_folder_is_evaluated_as_a_base(
    own_processor, base_folder, conversations, tmp_path
):
    """Its own processor if there is one, else that of the base it names."""
    model = AutoModelForImageTextToText.from_pretrained(base_folder)
    spec = rcp.PluginSpec([rcp.StageSpec(1, 0.25, "rcp", dict(RCP))])
    rcp.save_plugin(randomised(rcp.Plugin.for_model(spec, model)), tmp_path / "plugin")
    get_peft_model(model, ADAPTERS["lora"]()).save_pretrained(tmp_path / "adapter")
    if own_processor:
        AutoProcessor.from_pretrained(base_folder).save_pretrained(tmp_path / "adapter")
    line = ["--plugin", tmp_path / "plugin", "--base", tmp_path / "adapter", "--no-controls",
            "--data", conversations, "--max-new-tokens", "2", "--output", tmp_path / "rows.json"]
    assert evaluate.main([str(part) for part in line]) == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert rows["rcp"]["mean_tokens"] == 7.0 and rows["full"]["mean_tokens"] == 16.0
