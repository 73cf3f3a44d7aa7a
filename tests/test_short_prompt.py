"""A stage before the decoder hands it a shorter prompt: no layer is hooked, and what works on a
shorter prompt works."""

import copy

import pytest
import torch

import rcp
from rcp import PluginSpec, RepairSpec, StageSpec, attach
from rcp.attaching.forwards.short_prompt import runs_before_decoder
from rcp.attaching.hooks import Hook
from rcp.backbones import backbone_for
from tests.decoding import (
    TOLERANCE,
    assert_decodes_as_masked,
    dropped,
    error,
    family,
    generated,
    plugin_for,
)
from tests.families import FAMILIES, Sample
from tests.tiny import attention_spec

RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
EVEN = (Sample(3), Sample(6))
ENTRY = attention_spec(layers=(0,))
REPAIRED = PluginSpec([StageSpec(0, 0.3, "question_attention")], RepairSpec([2, 4]))
REPACKED = PluginSpec([StageSpec(0, 0.3, "question_attention")], position_policy="repack")
STATIC = {"cache_implementation": "static"}


def shortens(name: str) -> bool:
    backbone = backbone_for(family(name).model)
    return runs_before_decoder(backbone, plugin_for(family(name), ENTRY))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_entry_stage_decodes_as_masked(name):
    assert_decodes_as_masked(name, ENTRY, RAGGED)


def test_most_families_take_a_shorter_prompt():
    """The others count original columns by windows, look both ways, or add to rows in between."""
    names = [name for name in FAMILIES if shortens(name)]
    assert len(names) >= len(FAMILIES) // 2
    assert not {"gemma3-window", "paligemma2", "qwen3_vl"}.intersection(names)


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl"])
def test_no_layer_has_a_hook(name):
    case = family(name)
    layers = backbone_for(case.model).layers
    hooks = [list(m._forward_pre_hooks.values()) + list(m._forward_hooks.values())
             for m in layers.modules()]
    with attach(case.model, plugin_for(case, ENTRY)):
        for module, before in zip(layers.modules(), hooks):
            now = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
            assert now == before
    with attach(case.model, plugin_for(case, REPAIRED)):
        hooked = [at for at, layer in enumerate(layers)
                  if any(isinstance(hook, Hook) for hook in layer._forward_hooks.values())]
        assert hooked == [2, 4] and not any(layer._forward_pre_hooks for layer in layers)


@pytest.mark.parametrize("spec", [ENTRY, REPAIRED, REPACKED], ids=["plain", "repair", "repack"])
@pytest.mark.parametrize("samples", [RAGGED, EVEN], ids=["ragged", "even"])
def test_it_equals_the_stage_inside(samples, spec, monkeypatch):
    """The way through the layers' hooks is the reference, over a prompt and two further turns."""
    case = family("llava-llama")
    plugin = plugin_for(case, spec)
    inputs = case.inputs(samples)
    short = turns(case, plugin, inputs)
    monkeypatch.setattr(type(backbone_for(case.model)), "takes_shorter_prompts", False)
    for one, other in zip(short, turns(case, plugin, inputs), strict=True):
        assert error(one, other) < TOLERANCE


@torch.no_grad()
def turns(case, plugin, inputs):
    """Logits of a prefill, of two texts of one and of three tokens, and of the prompt again."""
    found = []
    with attach(case.model, plugin):
        out = case.model(**inputs, use_cache=True)
        found.append(out.logits[:, -1])
        mask, cache = inputs["attention_mask"], out.past_key_values
        for count in (1, 3):
            ids = torch.full((len(mask), count), 17)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            out = case.model(input_ids=ids, attention_mask=mask, past_key_values=cache)
            found.append(out.logits)
        mask = torch.cat([mask, inputs["attention_mask"]], 1)
        again = inputs | {"attention_mask": mask, "past_key_values": cache}
        found.append(case.model(**again).logits[:, -1])
    return found


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_decoder_alone_on_the_rows_that_are_left(padding):
    """What the decoder computes is what it computes of these rows at their own positions."""
    case = family("llava-llama")
    plugin = plugin_for(case, ENTRY)
    inputs = case.inputs([Sample(3)], padding)
    with attach(case.model, plugin), torch.no_grad():
        out = case.model(**inputs, use_cache=True)
        kept = rcp.plan_of(out.past_key_values).alive[0, 0].nonzero()[:, 0]
    features = case.model.base_model.get_image_features(inputs["pixel_values"])
    embeds = case.model.get_input_embeddings()(inputs["input_ids"])
    image = inputs["input_ids"] == case.model.config.image_token_id
    embeds[image] = torch.cat(list(features.pooler_output))
    with torch.no_grad():
        alone = case.model.get_decoder()(
            inputs_embeds=embeds[:, kept],
            position_ids=kept[None],
            attention_mask=torch.ones(1, len(kept)),
        ).last_hidden_state
        logits = case.model.lm_head(alone)
    assert error(out.logits[:, kept], logits) < TOLERANCE
    assert out.past_key_values.layers[0].keys.shape[2] == len(kept)


@pytest.mark.parametrize("samples", [RAGGED, EVEN], ids=["ragged", "even"])
@pytest.mark.parametrize("spec", [ENTRY, REPAIRED, REPACKED], ids=["plain", "repair", "repack"])
@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl"])
def test_a_static_cache_answers_like_a_growing_one(name, samples, spec):
    case = family(name)
    plugin, inputs = plugin_for(case, spec), case.inputs(samples)
    growing = dropped(case, plugin, inputs)
    fixed = dropped(case, plugin, inputs, **STATIC)
    assert torch.equal(fixed.sequences, growing.sequences)
    assert error(torch.stack(fixed.logits), torch.stack(growing.logits)) < TOLERANCE


def test_a_static_cache_is_used_again_for_another_prompt():
    """It is reset in between, and forgets which rows of the last prompt were real."""
    case = family("llava-llama")
    plugin = plugin_for(case, ENTRY)
    case = copy.copy(case)
    expected = [dropped(case, plugin, case.inputs(s)).sequences for s in (RAGGED, EVEN)]
    with attach(case.model, plugin):
        for samples, sequences in zip((RAGGED, EVEN), expected):
            found = generated(case, case.inputs(samples), **STATIC).sequences
            assert torch.equal(found, sequences)


def test_a_stage_inside_refuses_a_static_cache_by_name():
    case = family("llava-llama")
    plugin = plugin_for(case, attention_spec(layers=(0, 3)))
    with attach(case.model, plugin), pytest.raises(rcp.UserError, match="'static'.*at layer 0"):
        generated(case, case.inputs(EVEN), **STATIC)


@pytest.mark.slow
def test_a_compiled_decoder_is_one_graph():
    """One of the prefill, one of the decode step; hooks break the graph around it, not inside."""
    case = family("llava-llama")
    inputs = case.inputs([Sample(3)])
    step = {
        "input_ids": torch.tensor([[17]]),
        "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 1).long(),
    }

    def sizes(run) -> list[int]:
        """Operations of each graph that was compiled."""
        found = []

        def backend(graph, _):
            found.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
            return graph.forward

        torch.compiler.reset()
        run(torch.compile(case.model, backend=backend, dynamic=True))
        return found

    @torch.no_grad()
    def run(model):
        out = model(**inputs, use_cache=True)
        model(**step, past_key_values=out.past_key_values)

    full = sizes(run)
    whole = max(full) * 0.9
    with attach(case.model, plugin_for(case, ENTRY)):
        short = sizes(run)
    assert sum(size > whole for size in full) == sum(size > whole for size in short) == 2
    assert len(short) <= len(full)


def test_without_a_cache_gaps_in_positions_are_no_borders():
    """The decoder would take them for documents in one row, each blind to those before it."""
    case = family("llava-llama")
    plugin, inputs, found = plugin_for(case, ENTRY), case.inputs(EVEN), {}
    for mode in ("drop", "soft"):
        with rcp.attach(case.model, plugin, mode) as handle, torch.no_grad():
            with handle.prompt(inputs["input_ids"].shape[1]):
                found[mode] = case.model(**inputs, use_cache=False).logits[:, -1]
    assert error(found["drop"], found["soft"]) < TOLERANCE
