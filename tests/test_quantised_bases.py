"""Bases whose weights are kept in few bits: a plug-in computes in the precision of activations.

The formats of libraries that are installed are really loaded (``pip install "rcp[quantised]"``);
how their modules keep weights is tried without them, too.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TorchAoConfig,
)

import rcp
from rcp.backbones import backbone_for
from rcp.base_model.fingerprint import of_weights
from rcp.base_model.loading import load_base
from tests.quantised import STORED, stored
from tests.tiny import IMAGE, PAD, randomised, rcp_spec, tiny_inputs, tiny_llava_model
from tests.tiny_base import make_processor

PRECISIONS = [torch.float32, torch.bfloat16]


def spec(lora: bool = False) -> rcp.PluginSpec:
    found = rcp_spec()
    if lora:
        found.lora = rcp.LoraSpec(rank=2, targets=["q_proj", "down_proj"], layers=[0, 3])
    return found


def inputs_for(model: nn.Module) -> dict[str, Tensor]:
    inputs = tiny_inputs()
    return inputs | {"pixel_values": inputs["pixel_values"].to(model.lm_head.weight.dtype)}


@torch.no_grad()
def dropped_and_masked(model: Any, plugin: rcp.Plugin) -> tuple[Tensor, Tensor, Tensor]:
    """Last logits (B, V) with all tokens, with some dropped, and with these masked."""
    inputs = inputs_for(model)
    full = model(**inputs).logits[:, -1]
    with rcp.attach(model, plugin), torch.inference_mode():
        made = model.generate(
            **inputs, max_new_tokens=2, return_dict_in_generate=True, output_logits=True
        )
    plan = rcp.plan_of(made.past_key_values)
    with rcp.attach(model, plugin, "soft", plan=plan) as handle:
        with handle.prompt(inputs["input_ids"].shape[1]):
            masked = model(**inputs).logits[:, -1]
    return full, made.logits[0], masked


def assert_drops(model: Any, plugin: rcp.Plugin, tolerance: float = 1e-5) -> None:
    full, dropped, masked = dropped_and_masked(model, plugin)
    assert (dropped - full).abs().max() > 0.05
    assert (dropped.float() - masked.float()).norm() < tolerance * masked.float().norm()
    dtypes = {parameter.dtype for parameter in plugin.parameters()}
    assert dtypes == {backbone_for(model).layers[0].input_layernorm.weight.dtype}


@pytest.mark.parametrize("lora", [False, True], ids=["pruners", "and-lora"])
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("kind", STORED)
def test_a_plugin_never_takes_the_precision_of_stored_weights(kind, dtype, lora):
    base = tiny_llava_model().to(dtype)
    plugin = randomised(rcp.Plugin.for_model(spec(lora), base))
    assert_drops(stored(base, kind), plugin, 1e-5 if dtype == torch.float32 else 0.25)


@pytest.mark.parametrize("kind", STORED)
def test_a_plugin_made_for_stored_weights_serves_the_base_they_were_made_from(kind):
    base = tiny_llava_model()
    assert_drops(base, randomised(rcp.Plugin.for_model(spec(True), stored(base, kind))))


@pytest.mark.parametrize("kind", STORED)
def test_gradients_of_a_training_pass_stored_weights(kind):
    model = stored(tiny_llava_model(), kind).requires_grad_(False)
    plugin, inputs = randomised(rcp.Plugin.for_model(spec(True), model)), inputs_for(model)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 7
    with rcp.attach(model, plugin, "soft"):
        model(**inputs, labels=labels).logits.square().mean().backward()
    assert all(parameter.dtype == torch.float32 for parameter in plugin.parameters())
    assert all(pair.up.weight.grad.abs().max() > 0 for pair in plugin.lora.pairs.values())


def test_the_precision_is_that_of_the_norm_where_all_else_is_stored():
    layer = stored(tiny_llava_model().bfloat16(), "fp8")
    assert backbone_for(layer).dtype(3) == torch.bfloat16
    packed = backbone_for(stored(tiny_llava_model(), "packed"))
    assert packed.dtype(0) == torch.float32 and packed.device(0) == torch.device("cpu")
    packed.layers[0].input_layernorm = nn.Identity()  # a norm without weights: the next one
    assert packed.dtype(0) == torch.float32


# -- as libraries load them ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose widths are multiples of the 64 that quantisers take at a time."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=120, hidden_size=64, intermediate_size=128, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=4, pad_token_id=PAD,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


def bits_and_bytes(dtype: torch.dtype, **options: Any) -> Any:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=dtype)


def torch_ao(kind: str, _: torch.dtype, **options: Any) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(getattr(quantization, kind)(**options))


FORMATS = {
    "bitsandbytes int8": partial(bits_and_bytes, load_in_8bit=True),
    "bitsandbytes nf4": partial(bits_and_bytes, load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bitsandbytes fp4": partial(bits_and_bytes, load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "torchao int8": partial(torch_ao, "Int8WeightOnlyConfig"),
    "torchao int4": partial(torch_ao, "IntxWeightOnlyConfig", weight_dtype=torch.int4),
    "torchao float8": partial(torch_ao, "Float8WeightOnlyConfig"),
}


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_a_base_that_is_quantised_while_it_is_loaded(name, dtype, folder):
    config = FORMATS[name](dtype)
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    plugin = randomised(rcp.Plugin.for_model(spec(True), base))
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, quantization_config=config
    ).eval()
    tolerance = 2e-5 if dtype == torch.float32 else 0.25
    assert_drops(model, plugin, tolerance)
    assert_drops(model, randomised(rcp.Plugin.for_model(spec(True), model)), tolerance)
    assert of_weights(model) == of_weights(model) != of_weights(base)


@pytest.mark.parametrize("name", ["bitsandbytes int8", "bitsandbytes nf4", "torchao int8"])
def test_a_folder_of_quantised_weights_is_a_base(name, folder, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, quantization_config=FORMATS[name](torch.float32)
    )
    model.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    read, _ = load_base(str(tmp_path), "float32", "cpu")
    assert_drops(read, randomised(rcp.Plugin.for_model(spec(), model)), 2e-5)


def compress(folder: Path, target: Path) -> None:
    """``folder`` with the decoder's linear weights in FP8, as compressed-tensors writes them."""
    AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(target)
    tensors = load_file(target / "model.safetensors")
    matrices = [name for name in tensors if name.endswith("_proj.weight")]
    for name in [name for name in matrices if "vision" not in name]:
        scale = tensors[name].abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["re:.*vision_tower.*", "re:.*projector.*", "re:.*lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    (target / "config.json").write_text(json.dumps(config))


def test_compressed_tensors_before_and_after_their_first_forward(folder, tmp_path):
    """Which is when they are decompressed: before it, the weights are floats of 8 bits."""
    pytest.importorskip("compressed_tensors")
    compress(folder, tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(folder).eval()
    plugin = randomised(rcp.Plugin.for_model(spec(True), base))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.float8_e4m3fn
    with torch.no_grad(), rcp.attach(model, plugin):
        first = model(**inputs_for(model)).logits[:, -1]
    torch.testing.assert_close(dropped_and_masked(model, plugin)[1], first)
    assert_drops(model, plugin)


def test_the_table_of_the_documentation_lists_what_is_loaded_here():
    table = (Path(__file__).parents[1] / "docs" / "quantised.md").read_text()
    rows = re.findall(r"^\| (bitsandbytes .+?|torchao .+?) \|", table, re.MULTILINE)
    assert rows == list(FORMATS)
