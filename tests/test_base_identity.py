"""By what a base is known again: which changes a plug-in accepts, and which make it another one."""

import copy
import json
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

import rcp
from rcp.backbones import backbone_for
from rcp.base_model.identity import BaseIdentity
from rcp.base_model.samples import COUNT, weights_of
from tests.families import FAMILIES
from tests.make_golden import GOLDEN, INPUTS, SPECS, base_marks
from tests.quantised import STORED, stored
from tests.tiny import reference_plugin, tiny_llava_model

REFUSED = "made for another base: the model's {} values differ by"


def identity(model: nn.Module) -> BaseIdentity:
    """As a folder that was written and read has it."""
    plain = json.loads(json.dumps(BaseIdentity.of(backbone_for(model)).to_dict()))
    return BaseIdentity(**plain)


def check(known: BaseIdentity, model: nn.Module) -> None:
    known.check(backbone_for(model))


def another(tensor: torch.Tensor) -> torch.Tensor:
    """Of the same shape and size of values."""
    if tensor.std(correction=0) > 1e-3:
        return torch.randn_like(tensor) * tensor.float().norm() / tensor.numel() ** 0.5
    return tensor + 0.3 * torch.randn_like(tensor)  # zeros and ones stand for no training


# -- which weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llava-llama", "llava_next", "qwen2_5_vl", "qwen3_vl", "gemma3", "smolvlm", "fast_vlm"]
)
def test_every_weight_counts(name):
    """Tower, projector, newline, embeddings, norms and each layer: all but what is tied twice."""
    model = FAMILIES[name]().model
    known, named = identity(model), [name for name, _ in model.named_parameters()]
    for weight in weights_of(model):
        before = weight.tensor.data.clone()
        weight.tensor.data.copy_(another(before))
        with pytest.raises(rcp.UserError, match=REFUSED.format(".+")):
            check(known, model)
        weight.tensor.data.copy_(before)
    check(known, model)
    sampled = {weight.tensor.data_ptr() for weight in weights_of(model)}
    assert sampled >= {model.get_parameter(name).data_ptr() for name in named}


@pytest.mark.parametrize(
    "part",
    [
        "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        "model.multi_modal_projector.linear_2.weight",
        "model.language_model.layers.3.self_attn.k_proj.weight",
        "model.language_model.layers.5.mlp.down_proj.weight",
        "model.language_model.layers.5.post_attention_layernorm.weight",
    ],
)
@pytest.mark.parametrize("change", [another, torch.zeros_like, lambda tensor: tensor * 1.5])
def test_a_part_of_the_same_shape_is_told_by_name(part, change, tiny_llava, tmp_path):
    rcp.save_plugin(reference_plugin("rcp", tiny_llava), tmp_path / "plugin")
    plugin = rcp.load_plugin(tmp_path / "plugin")
    parameter = tiny_llava.get_parameter(part)
    parameter.data = change(parameter.data)
    with pytest.raises(rcp.UserError, match=REFUSED.format(part)):
        rcp.attach(tiny_llava, plugin)


def test_two_layers_in_each_others_place_are_another_base(tiny_llava):
    known = identity(tiny_llava)
    layers = tiny_llava.model.language_model.layers
    layers[1], layers[4] = layers[4], layers[1]
    with pytest.raises(rcp.UserError, match=r"layers\.[14]\..* values differ"):
        check(known, tiny_llava)


def test_few_values_are_kept_and_none_of_what_cannot_be_read(tiny_llava):
    known = identity(tiny_llava)
    lengths = {len(values) for name, values in (known.samples | known.matrices).items()
               if "embedding" not in name}
    assert max(lengths) == COUNT and not known.adapted
    assert len(known.samples["input embedding"]) == 7 * COUNT  # rows 1, 2, 4, ... 64 of 120
    meta = copy.deepcopy(tiny_llava).to("meta")
    assert not weights_of(meta)
    check(known, meta)  # as where weights are sharded or offloaded: nothing to compare


# -- what is no other base -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_cast_is_none(dtype, tiny_llava):
    tiny = tiny_llava.get_parameter("model.vision_tower.encoder.layers.0.self_attn.k_proj.bias")
    tiny.data = torch.full_like(tiny, 1e-9)  # fp16 makes zeros of it
    known = identity(tiny_llava)
    cast = copy.deepcopy(tiny_llava).to(dtype)
    check(known, cast)
    check(identity(cast), tiny_llava)


@pytest.mark.parametrize("kind", STORED)
def test_quantised_weights_are_none_but_other_norms_are(kind, tiny_llava):
    known, few = identity(tiny_llava), stored(tiny_llava, kind)
    check(known, few)
    check(identity(few), tiny_llava)
    norm = few.get_parameter("model.language_model.layers.2.input_layernorm.weight")
    norm.data = another(norm.data)
    with pytest.raises(rcp.UserError, match=r"layers\.2\.input_layernorm\.weight values differ"):
        check(known, few)


def test_matrices_that_went_through_four_bits_are_none(tiny_llava):
    known = identity(tiny_llava)
    for name, parameter in tiny_llava.named_parameters():
        if parameter.dim() == 2 and "proj" in name:
            scale = parameter.abs().amax(1, keepdim=True) / 7
            parameter.data = (parameter / scale).round() * scale
    check(known, tiny_llava)


# -- vocabularies ----------------------------------------------------------------------------------

RESIZED = {
    "added": {"new_num_tokens": 123},
    "padded": {"new_num_tokens": 120, "pad_to_multiple_of": 64},
    "doubled": {"new_num_tokens": 240},
    "shrunken": {"new_num_tokens": 101},
    "far shrunken": {"new_num_tokens": 100},
}


@pytest.mark.parametrize("size", RESIZED)
def test_a_vocabulary_of_another_size_is_no_other_base(size, tiny_llava, inputs):
    own = tiny_llava_model()
    tiny_llava.resize_token_embeddings(**RESIZED[size], mean_resizing=False)
    for made_for, used_on in ((own, tiny_llava), (tiny_llava, own)):
        plugin = reference_plugin("rcp", made_for)
        with rcp.attach(used_on, plugin), torch.no_grad():
            assert used_on(**inputs).logits.isfinite().all()
    table = tiny_llava.get_input_embeddings().weight
    table.data = another(table.data)
    for made_for, used_on in ((own, tiny_llava), (tiny_llava, own)):
        with pytest.raises(rcp.UserError, match=REFUSED.format("input embedding")):
            rcp.attach(used_on, reference_plugin("rcp", made_for))


def test_another_output_head_is_another_base_at_any_size(tiny_llava):
    known = identity(tiny_llava)
    tiny_llava.resize_token_embeddings(150, mean_resizing=False)
    check(known, tiny_llava)
    head = tiny_llava.get_output_embeddings().weight
    head.data = another(head.data)
    with pytest.raises(rcp.UserError, match=REFUSED.format("output embedding")):
        check(known, tiny_llava)


# -- adapters --------------------------------------------------------------------------------------

LINEARS = r".*language_model.*(q_proj|down_proj)"


def adapters() -> dict[str, Any]:
    """Which change weights by more than their own size."""
    return {
        "lora": LoraConfig(r=2, target_modules=LINEARS, init_lora_weights=False),
        "embedding": LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False),
        "whole": LoraConfig(
            r=2, target_modules=LINEARS, init_lora_weights=False, modules_to_save=["linear_1"]
        ),
        "ia3": IA3Config(
            target_modules=LINEARS, feedforward_modules=".*down_proj", init_ia3_weights=False
        ),
    }


@pytest.mark.parametrize("kind", adapters())
def test_an_adapter_is_told_from_the_base_it_is_on(kind):
    """In whichever of the three states the plug-in was made, it serves what computes the same."""
    base = tiny_llava_model()
    of_base = identity(base)
    wrapper = get_peft_model(base, adapters()[kind])
    if kind == "whole":
        projector = base.model.multi_modal_projector.linear_1.modules_to_save["default"]
        projector.weight.data = another(projector.weight.data)
    of_adapted = identity(wrapper)
    for known in (of_base, of_adapted):
        check(known, wrapper)
    wrapper.merge_adapter()
    of_merged = identity(wrapper)
    for known in (of_base, of_adapted, of_merged):
        check(known, wrapper)
    alone = copy.deepcopy(wrapper).merge_and_unload()
    for known in (of_adapted, of_merged):
        check(known, alone)
    with pytest.raises(rcp.UserError, match="before it is merged"):
        check(of_base, alone)
    wrapper.unmerge_adapter()
    for known in (of_base, of_adapted, of_merged, identity(alone)):
        check(known, wrapper)


def test_looking_behind_an_adapter_changes_no_weight(inputs):
    wrapper = get_peft_model(tiny_llava_model(), adapters()["lora"]).eval()
    for state in ("as it is", "merged"):
        before = {name: value.clone() for name, value in wrapper.state_dict().items()}
        check(identity(wrapper), wrapper)
        assert all(torch.equal(value, before[name]) for name, value in wrapper.state_dict().items())
        wrapper.merge_adapter()


# -- folders of before -----------------------------------------------------------------------------


@pytest.fixture
def golden_base():
    model = tiny_llava_model()
    if not torch.allclose(base_marks(model), load_file(INPUTS)["base"], rtol=1e-4, atol=1e-4):
        pytest.skip("this release of torch draws other random numbers, so the base is another one")
    return model


@pytest.mark.parametrize("folder", SPECS)
def test_folders_of_before_know_their_base_also_when_it_has_grown(folder, golden_base):
    plugin = rcp.load_plugin(GOLDEN / folder)
    assert set(plugin.base.samples) == {"first norm", "final norm", "embedding"}
    rcp.attach(golden_base, plugin).remove()
    golden_base.resize_token_embeddings(131, mean_resizing=False)
    rcp.attach(golden_base, plugin).remove()
    table = golden_base.get_input_embeddings().weight
    table.data = another(table.data)
    with pytest.raises(rcp.UserError, match="embedding values differ"):
        rcp.attach(golden_base, plugin)


@pytest.mark.parametrize("name", ["first norm", "final norm"])
def test_folders_of_before_refuse_other_norms(name, golden_base):
    plugin = rcp.load_plugin(GOLDEN / "merging")
    decoder = golden_base.model.language_model
    norm = decoder.norm if name == "final norm" else decoder.layers[0].input_layernorm
    norm.weight.data = another(norm.weight.data)
    with pytest.raises(rcp.UserError, match=REFUSED.format(name)):
        rcp.attach(golden_base, plugin)


@pytest.mark.parametrize("values", [[], [0.5] * 5, [0.5] * 33, [1e300] * 32])
@pytest.mark.parametrize("name", ["embedding", "first norm", "input embedding"])
def test_damaged_samples_are_refused_or_differ(name, values, tiny_llava):
    known = identity(tiny_llava)
    known.samples = {name: values}
    with pytest.raises(rcp.UserError, match="damaged|differ"):
        check(known, tiny_llava)
