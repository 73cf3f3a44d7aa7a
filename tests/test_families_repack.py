"""Position policy "repack": as though what layer 0 dropped had never been in the prompt."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rcp import Plugin, PluginSpec, UserError, attach, load_plugin, plan_of, save_plugin
from rcp.attaching.forwards.repacking import closed
from rcp.backbones import backbone_for
from tests.decoding import error, family, logits, plugin_for
from tests.families import FAMILIES, Sample
from tests.families.batches import batches_of, text_of
from tests.test_families_generate import (
    assert_decodes_as_masked,
    is_upstream,
    steps_of,
    two_turns,
)
from tests.tiny import attention_spec, rcp_spec

TOLERANCE = 1e-5
RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
BY_DEFAULT = ("pixtral", "mistral3", "gemma3", "paligemma2", "aya_vision",
              "cohere2_vision", "exaone4_5", "shieldgemma2",
              "gemma4", "gemma4_unified")
WINDOWED = [name for name in FAMILIES if "window" in name or name in BY_DEFAULT]
FULL = [name for name in FAMILIES if name not in WINDOWED]


def repacked(spec: PluginSpec) -> PluginSpec:
    spec.position_policy = "repack"
    return spec


def closed_by_hand(positions: Tensor, present: Tensor, left: Tensor) -> Tensor:
    """(A, B, T): the same by sets, one value at a time."""
    result = positions.clone()
    for row in range(positions.shape[1]):
        all_values = set(positions[:, row, present[row]].flatten().tolist())
        gone = all_values - set(positions[:, row, left[row]].flatten().tolist())
        for index, value in enumerate(positions[:, row].flatten().tolist()):
            axis, column = divmod(index, positions.shape[2])
            result[axis, row, column] = value - sum(one < value for one in gone)
    return result


@pytest.mark.parametrize("axes", [1, 3])
def test_gaps_are_closed_as_by_hand(axes):
    generator = torch.Generator().manual_seed(axes)
    for _ in range(20):
        positions = torch.randint(0, 30, (axes, 3, 12), generator=generator)
        present = torch.rand(3, 12, generator=generator) < 0.8
        left = present & (torch.rand(3, 12, generator=generator) < 0.5)
        found, shift = closed(positions, present, left)
        assert torch.equal(found, closed_by_hand(positions, present, left))
        for row in range(3):
            values = [set(positions[:, row, of[row]].flatten().tolist()) for of in (present, left)]
            assert shift[row].item() == -len(values[0] - values[1])


def test_one_axis_numbers_the_tokens_left_one_by_one():
    positions = torch.tensor([[[0, 0, 0, 1, 2, 3, 4, 5]]])
    present = torch.tensor([[False, False, True, True, True, True, True, True]])
    left = torch.tensor([[False, False, True, False, True, False, False, True]])
    found, shift = closed(positions, present, left)
    assert found[0, 0, left[0]].tolist() == [0, 1, 2]
    assert shift.tolist() == [[-3]]


def shortened(value: Any, left: Tensor) -> Any:
    """A decoder's argument of one sample, for the columns in ``left`` (T,) only."""
    if isinstance(value, dict):
        return {kind: shortened(mask, left) for kind, mask in value.items()}
    if value is None or value.dim() == 2:
        return value if value is None else value[:, left]
    return value[:, :, left][..., left]


@pytest.mark.parametrize("name", FULL)
def test_the_bare_decoder_agrees_on_the_shortened_prompt(name):
    """Survivors' embeddings, under positions closed by hand, and no plug-in."""
    case = family(name)
    plugin = plugin_for(case, repacked(attention_spec(layers=(0,), ratios=(0.4,))))
    inputs, decoder = case.inputs([Sample(4)]), case.model.get_decoder()
    seen: dict[str, Any] = {}
    hook = decoder.register_forward_pre_hook(
        lambda _, __, kwargs: seen.update(kwargs), with_kwargs=True
    )
    states = []
    with attach(case.model, plugin, "drop") as handle, handle.trace() as trace, torch.no_grad():
        after = decoder.register_forward_hook(
            lambda _, __, output: states.append(output.last_hidden_state)
        )
        case.model(**inputs)
        after.remove()
    hook.remove()
    left, image = trace.plan.alive[0, 0], trace.plan.visual[0]
    assert 0 < (image & left).sum() < image.sum()
    positions = seen["position_ids"]
    if positions is None:
        positions = torch.arange(len(left))[None]
    axes = positions[-3:] if positions.dim() == 3 else positions[None]
    axes = closed_by_hand(axes.expand(-1, 1, -1), torch.ones_like(left)[None], left[None])
    arguments = {
        "inputs_embeds": seen["inputs_embeds"][:, left],
        "attention_mask": shortened(seen["attention_mask"], left),
        "position_ids": axes[..., left] if positions.dim() == 3 else axes[0, :, left],
    }
    if seen.get("deepstack_visual_embeds") is not None:
        arguments["visual_pos_masks"] = image[None, left]
        features = seen["deepstack_visual_embeds"]
        arguments["deepstack_visual_embeds"] = [part[left[image]] for part in features]
    with torch.no_grad():
        expected = decoder(**arguments).last_hidden_state
    assert error(states[0][:, left], expected) < TOLERANCE


@pytest.mark.parametrize("padding", ["left", pytest.param("right", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FULL)
def test_dropping_equals_masking(name, padding):
    case = family(name)
    # few enough that an M-RoPE image loses whole rows and columns
    plugin = plugin_for(case, repacked(rcp_spec(layers=(0, 3), ratios=(0.2, 0.1))))
    effects = []
    for samples in batches_of(case).values():
        inputs = case.inputs(samples, padding=padding)
        text = text_of(inputs, backbone_for(case.model))
        soft, drop = (logits(case, plugin, mode, inputs)[text] for mode in ("soft", "drop"))
        assert error(drop, soft) < TOLERANCE
        plugin.spec.position_policy = "keep"
        effects.append(error(logits(case, plugin, "drop", inputs)[text], drop))
        plugin.spec.position_policy = "repack"
    assert max(effects) > 1e-3


@pytest.mark.parametrize("name", FULL)
def test_decoding_continues_behind_the_closed_gaps(name):
    assert_decodes_as_masked(name, repacked(rcp_spec(layers=(0, 3))), RAGGED)


@pytest.mark.parametrize("name", FULL)
def test_keeping_everything_is_bit_equal(name):
    case = family(name)
    plugin = plugin_for(case, repacked(attention_spec(layers=(0, 3), ratios=(1.0, 1.0))))
    inputs = case.inputs(RAGGED)
    with torch.no_grad():
        untouched = case.model(**inputs).logits
    assert torch.equal(logits(case, plugin, "drop", inputs), untouched)


@pytest.mark.parametrize("images", [(1, 0), (0, 1), (1, 1)], ids=["text", "first-image", "image"])
@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl"])
def test_a_second_turn_goes_on_behind_the_closed_gaps(name, images):
    if is_upstream(name, images):
        pytest.skip("this release gets it wrong without a plug-in")
    case = family(name)
    plugin = plugin_for(case, repacked(attention_spec(layers=(0, 3))))
    with attach(case.model, plugin, "drop"):
        output, inputs = two_turns(case, images)
    plan = plan_of(output.past_key_values)
    with attach(case.model, plugin, "soft", plan=plan) as handle, torch.no_grad():
        with handle.prompt(inputs["input_ids"].shape[1]):
            expected = steps_of(case, inputs, output.sequences[:, -4:])
    assert error(torch.stack(output.logits), expected) < TOLERANCE


def test_a_first_stage_inside_the_decoder_is_refused():
    with pytest.raises(UserError, match="must be at layer 0.*\\[1, 3\\]"):
        Plugin(repacked(attention_spec()), 48, 6)


@pytest.mark.parametrize("name", WINDOWED)
def test_sliding_windows_are_refused(name):
    case = family(name)
    plugin = plugin_for(case, repacked(attention_spec(layers=(0, 3))))
    for mode in ("soft", "drop"):
        with pytest.raises(UserError, match="sliding window of layer"):
            attach(case.model, plugin, mode)


def test_the_policy_travels_with_the_plugin(tmp_path):
    case = family("llava-llama")
    plugin = plugin_for(case, repacked(attention_spec(layers=(0, 3))))
    save_plugin(plugin, tmp_path / "plugin")
    assert load_plugin(tmp_path / "plugin").spec.position_policy == "repack"
