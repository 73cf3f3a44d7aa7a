"""What every supported family must show, found by its being registered."""

import inspect

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from rcp import UserError, attach
from rcp.backbones import backbone_for
from rcp.backbones.base import BACKBONES
from rcp.backbones.refused import REFUSED
from tests.decoding import REFERENCES, error, family, logits, plugin_for, prompt_ends
from tests.families import ENTRY_FAMILIES, FAMILIES, Case, Sample, upstream
from tests.families.batches import BATCHES, batches_of, text_of, videos_of
from tests.tiny import attention_spec, rcp_spec

TOLERANCE = 1e-5
"""Relative to the largest logit; fp32 sums in another order reach 5e-6."""

EFFECT = 1e-2
"""What dropping must change, so that a parity below the tolerance means something."""


def parity(case: Case, spec, samples: tuple[Sample, ...], padding: str = "left") -> float:
    """Assert that dropping is masking; how far both are from the model that keeps everything."""
    plugin = plugin_for(case, spec)
    inputs = case.inputs(samples, padding=padding)
    text = text_of(inputs, backbone_for(case.model))
    with torch.no_grad():
        untouched = case.model(**inputs).logits[text]
    soft, drop = (logits(case, plugin, mode, inputs)[text] for mode in ("soft", "drop"))
    assert error(drop, soft) < TOLERANCE
    return error(soft, untouched)


def test_every_family_has_a_case():
    tried = {family(name).model.config.model_type for name in [*FAMILIES, *ENTRY_FAMILIES]}
    assert tried == {name for name in BACKBONES.names() if name in CONFIG_MAPPING}


@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_family_says_what_it_is(name):
    assert BACKBONES.get(name).title


@pytest.mark.parametrize("name", [*FAMILIES, *ENTRY_FAMILIES])
def test_a_family_that_says_it_takes_videos_is_tried_with_one(name):
    case = family(name)
    takes = "pixel_values_videos" in inspect.signature(case.model.forward).parameters
    assert case.videos == backbone_for(case.model).videos == takes


@pytest.mark.parametrize("name", upstream.CLIPS)
def test_clips_that_this_release_refuses_without_a_plugin(name):
    case = family(name)
    with pytest.raises(ValueError, match="num_frames_per_video"):
        case.model(**case.inputs(videos_of(case)))


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", FAMILIES)
def test_dropping_equals_masking(name, reference):
    case = family(name)
    for samples in batches_of(case).values():
        assert parity(case, REFERENCES[reference](), samples) > EFFECT


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layers", [(0, 3), (1, 3), (0, 1, 2), (5,)])
@pytest.mark.parametrize("spec", [attention_spec, rcp_spec])
@pytest.mark.parametrize("name", FAMILIES)
def test_dropping_equals_masking_anywhere(name, spec, layers, padding):
    case = family(name)
    ratios = tuple(0.6 * 0.5**stage for stage in range(len(layers)))
    options = {} if spec is attention_spec else {"repair": (5,)}
    found = spec(layers=layers, ratios=ratios, **options)
    effects = [parity(case, found, samples, padding) for samples in batches_of(case).values()]
    assert max(effects) > EFFECT  # behind the last window there may be nothing to feel in one


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_dropping_equals_masking_in_eager(name):
    case = FAMILIES[name]()
    case.model.set_attn_implementation("eager")
    assert parity(case, REFERENCES["rcp"](), BATCHES["ragged"]) > EFFECT


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_everything_is_bit_equal(name):
    """Also pins the takeover of Qwen3-VL's deepstack features."""
    case = family(name)
    plugin = plugin_for(case, attention_spec(layers=(0, 3), ratios=(1.0, 1.0)))
    inputs = case.inputs(BATCHES["ragged"])
    with torch.no_grad():
        untouched = case.model(**inputs).logits
    assert torch.equal(logits(case, plugin, "drop", inputs), untouched)


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_and_keys_are_those_of_eager_attention(name):
    """Windows, soft caps, partial and interleaved rotary, norms, layers without positions."""
    case = FAMILIES[name]()
    model, inputs = case.model, case.inputs(BATCHES["even"])
    model.set_attn_implementation("eager")
    backbone = backbone_for(model)
    seen: dict[int, tuple[Tensor, dict]] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, at=at: seen.update({at: (args[0], kwargs)}), with_kwargs=True
        )
        for at, layer in enumerate(backbone.layers)
    ]
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
        for hook in hooks:
            hook.remove()
        assert len(attentions) == len(backbone.layers)
        real = inputs["attention_mask"].bool()
        for at, expected in enumerate(attentions):
            hidden, arguments = seen[at]
            cos, sin = arguments["position_embeddings"]
            rope = cos.expand(len(hidden), -1, -1), sin.expand(len(hidden), -1, -1)
            normed = backbone.input_norm(at, hidden)
            query, key = backbone.qk(at, normed, normed, rope, rope)
            scores = backbone.attention_logits(at, query, key) + arguments["attention_mask"]
            gap = (scores.softmax(-1) - expected).transpose(1, 2)[real].abs().max()
            assert gap < 1e-6, f"layer {at}"


@pytest.mark.parametrize("name", FAMILIES)
def test_image_rows_and_places(name):
    """Places lie inside the image, differ within it, and are the same in ``generate``."""
    case = family(name)
    inputs = case.inputs(BATCHES["ragged"])
    plugin = plugin_for(case, attention_spec())
    with attach(case.model, plugin, "drop") as handle, torch.no_grad():
        maps = []
        decoder = handle.setup.backbone.decoder
        hook = decoder.norm.register_forward_pre_hook(
            lambda *_: maps.append(handle._relay.running.tokens)
        )
        case.model(**inputs)
        case.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        hook.remove()
    alone, generating = maps
    assert torch.equal(alone.image_index, generating.image_index)
    assert torch.equal(alone.grid.nan_to_num(9.0), generating.grid.nan_to_num(9.0))
    counts = alone.host.visual_counts
    assert counts[2] == 0 and counts[0] > counts[1] > 0
    for row, exists in zip(alone.grid, alone.visual_valid):
        placed = row[exists & ~row.isnan().any(-1)]
        assert (placed.abs() < 1).all()
        assert not len(placed) or placed.unique(dim=0).shape[0] >= 4
    # the same image tokens are found where only embeddings are given
    backbone = backbone_for(case.model)
    embeds = case.model.get_input_embeddings()(inputs["input_ids"])
    by_id = backbone.image_rows(inputs["input_ids"], None)
    assert torch.equal(backbone.image_rows(None, embeds) & by_id, by_id)


@pytest.mark.parametrize("model_type", REFUSED)
def test_refusal_names_the_reason(model_type):
    class Config:
        pass

    class SomeModel(torch.nn.Module):
        config = Config()

    SomeModel.config.model_type = model_type
    with pytest.raises(UserError, match="SomeModel .*rcp backbones.*choose a model of one of"):
        backbone_for(SomeModel())


def test_an_unknown_layer_type_is_refused():
    case = FAMILIES["llava-qwen2"]()
    case.model.config.text_config.layer_types[2] = "chunked_attention"
    with pytest.raises(UserError, match="chunked_attention"):
        backbone_for(case.model)


@pytest.mark.parametrize(
    "setting, reason",
    [
        ({"num_kv_shared_layers": 2}, "keys of an earlier layer.*and sees images both ways"),
        ({"hidden_size_per_layer_input": 4}, "embeddings of the prompt's tokens"),
        ({"enable_moe_block": True}, "experts beside its MLP"),
    ],
)
def test_a_size_of_gemma_4_that_cannot_lose_rows_is_refused(setting, reason):
    case = FAMILIES["gemma4"]()
    case.model.config.text_config.__dict__.update(setting)
    (name,) = setting
    with pytest.raises(UserError, match=f"{reason}.*{name}={setting[name]}.*Choose a size of it"):
        backbone_for(case.model)


@pytest.mark.skipif("molmo2" not in FAMILIES, reason="it came with a later release")
def test_a_molmo_2_that_scales_the_rotary_embedding_of_some_layers_is_refused():
    case = FAMILIES["molmo2"]()
    case.model.config.text_config.rope_scaling_layers = [0, 2]
    with pytest.raises(UserError, match="2 of its 6 layers.*rope_scaling_layers"):
        backbone_for(case.model)


def test_prompt_ends_on_either_side():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    assert prompt_ends({"attention_mask": mask}).tolist() == [4, 2]
