"""Where weights are and which kernel attends: offloaded layers, devices, flash attention."""

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from rcp import Plugin, attach
from rcp.backbones import backbone_for
from tests.decoding import dropped, error, generated, plugin_for
from tests.families import FAMILIES, Sample
from tests.tiny import attention_spec, randomised, rcp_spec

RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
TOLERANCE = 1e-5


# -- weights that wait elsewhere -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava-llama", "qwen3_vl", "gemma3-window"])
def test_offloaded_weights_decode_as_present_ones(name, tmp_path):
    """Half of the decoder waits on disk, as with ``device_map`` on a small machine."""
    accelerate = pytest.importorskip("accelerate")
    case = FAMILIES[name]()
    plugin = plugin_for(case, rcp_spec(layers=(0, 3)))
    inputs = case.inputs(RAGGED)
    expected = dropped(case, plugin, inputs)
    layers = backbone_for(case.model).layers
    waiting = {
        path: "disk"
        for path, module in case.model.named_modules()
        if any(module is layer for layer in layers[2:5])
    }
    device_map = {"": "cpu"} | waiting
    accelerate.dispatch_model(
        case.model, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
    )
    assert next(layers[3].parameters()).device.type == "meta"
    found = dropped(case, plugin, inputs)
    assert torch.equal(found.sequences, expected.sequences)
    assert error(torch.stack(found.logits), torch.stack(expected.logits)) < TOLERANCE


# -- flash attention ------------------------------------------------------------------------------


def flash_reference(module, query, key, value, attention_mask, scaling, **kwargs):
    """What flash attention computes, and no mask but the 2-D one of valid keys to tell it.

    Each row is attended by itself without its padding; queries are the last of the keys.
    """
    positions = kwargs.get("position_ids")
    if positions is not None and attention_mask is None:
        assert (positions.diff(dim=-1) == 1).all(), "gaps would be taken for document borders"
    batch, heads, queries, _ = query.shape
    key = key.repeat_interleave(heads // key.shape[1], 1)
    value = value.repeat_interleave(heads // value.shape[1], 1)
    keys = key.shape[2]
    if attention_mask is None:
        attention_mask = torch.ones(batch, keys)
    assert attention_mask.shape == (batch, keys), "flash attention takes a 2-D mask of the keys"
    output = torch.zeros_like(query)
    for row in range(batch):
        real = attention_mask[row].bool()
        asking = real[-queries:]
        q, k, v = query[row][:, asking], key[row][:, real], value[row][:, real]
        weights = q @ k.transpose(-1, -2) * scaling
        later = torch.ones(q.shape[1], k.shape[1]).triu(k.shape[1] - q.shape[1] + 1).bool()
        output[row][:, asking] = weights.masked_fill(later, -torch.inf).softmax(-1) @ v
    return output.transpose(1, 2), None


AttentionInterface.register("flash_reference", flash_reference)
AttentionMaskInterface.register("flash_reference", flash_attention_mask)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["llava-llama", "llava-qwen2", "llava_next", "qwen2_5_vl"])
def test_the_flash_path_agrees_with_sdpa(name, first, padding):
    """Its masks are 2-D: validity of cached keys, fillers and padding included."""
    case = FAMILIES[name]()
    plugin = plugin_for(case, rcp_spec(layers=(first, 3)))
    inputs = case.inputs(RAGGED, padding=padding)
    text = inputs["attention_mask"].bool()
    text &= ~backbone_for(case.model).image_rows(inputs["input_ids"], None)
    logits, outputs = [], []
    for kind in ("sdpa", "flash_reference"):
        case.model.get_decoder().config._attn_implementation = kind
        with attach(case.model, plugin, "drop"), torch.no_grad():
            logits.append(case.model(**inputs).logits[text])
            if padding == "left":
                outputs.append(generated(case, inputs))
    assert error(logits[1], logits[0]) < TOLERANCE
    if padding == "left":
        assert torch.equal(outputs[0].sequences, outputs[1].sequences)
        steps = [torch.stack(output.logits) for output in outputs]
        assert error(steps[1], steps[0]) < TOLERANCE


# -- on a GPU ------------------------------------------------------------------------------------


def on(device: str, inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for name, value in inputs.items()
    }


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("name", ["llava-llama", "llava_next", "qwen2_5_vl"])
def test_a_gpu_agrees_with_the_cpu_in_bfloat16(name, attention):
    """The plan of the CPU is replayed: rounding may swap two tokens, and that is no error."""
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    case = FAMILIES[name]()
    plugin = plugin_for(case, rcp_spec(layers=(0, 3), repair=()))
    inputs = case.inputs(RAGGED)
    text = inputs["attention_mask"].bool()
    text &= ~backbone_for(case.model).image_rows(inputs["input_ids"], None)
    with attach(case.model, plugin, "drop") as handle, handle.trace() as trace, torch.no_grad():
        expected = case.model(**inputs).logits[text]
    case.model.to("cuda", torch.bfloat16)
    case.model.get_decoder().config._attn_implementation = attention
    with attach(case.model, plugin, "drop", plan=trace.plan), torch.no_grad():
        found = case.model(**on("cuda", inputs, torch.bfloat16)).logits.cpu().float()[text]
    assert error(found, expected) < 0.1


@pytest.mark.gpu
def test_a_model_spread_over_two_gpus_decodes_as_on_one():
    accelerate = pytest.importorskip("accelerate")
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    case = FAMILIES["llava-llama"]()
    plugin = randomised(Plugin.for_model(attention_spec(layers=(0, 3)), case.model))
    inputs = on("cuda:0", case.inputs(RAGGED), torch.float32)
    case.model.to("cuda:0")
    expected = dropped(case, plugin, inputs).sequences
    device_map = {"model.vision_tower": 0, "model.multi_modal_projector": 0, "lm_head": 1}
    device_map |= {"model.language_model.embed_tokens": 0, "model.language_model.norm": 1}
    device_map |= {"model.language_model.rotary_emb": 0}
    device_map |= {f"model.language_model.layers.{layer}": layer // 3 for layer in range(6)}
    accelerate.dispatch_model(case.model, device_map)
    assert torch.equal(dropped(case, plugin, inputs).sequences, expected)
