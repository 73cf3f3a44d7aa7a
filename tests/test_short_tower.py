"""Patches dropped inside the vision tower: dropped as masked, kept in place, refused by name."""

import copy
import json

import pytest
import torch

import rcp
from rcp.attaching.given_images import encode_images, given_images
from rcp.backbones import backbone_for
from rcp.base_model.cost import TowerSizes, tower_flops
from rcp.base_model.sizes import tower_sizes
from rcp.choosing.fusing import patches_by_step
from tests.decoding import dropped, error, family, logits, masked
from tests.families import Sample
from tests.families.batches import BATCHES, text_of
from tests.test_cost import counted
from tests.tiny import TOKENS, row_of, tiny_inputs, tiny_llava_model

BLOCKS = [[0], [1], [0, 1]]
LATER = [rcp.StageSpec(2, 0.2, "question_attention"), rcp.StageSpec(4, 0.1, "random")]


def plugin_of(model, blocks=(0, 1), keep=0.7, stages=(), **fields) -> rcp.Plugin:
    tower = rcp.TowerSpec(list(blocks), keep)
    return rcp.Plugin.for_model(rcp.PluginSpec(list(stages), tower=tower, **fields), model).eval()


def visual_features(features) -> torch.Tensor:
    """(images, patches, D)"""
    return torch.stack(list(features.pooler_output))


def by_masks(model, pixels: torch.Tensor, blocks, keep) -> tuple[torch.Tensor, torch.Tensor]:
    """One image at full length, in plain steps: rows that are gone are masked, never removed, and
    each block that drops appends its fused row. Returns projected patches (M, D) and which are
    left (M,) bool."""
    tower = backbone_for(model).tower
    hidden = tower.encoder.pre_layrnorm(tower.encoder.embeddings(pixels[None]))[0]
    patches = hidden.shape[0] - 1
    there = torch.ones(len(hidden), dtype=torch.bool)
    for number, block in enumerate(tower.blocks):
        normed, part = block.layer_norm1(hidden), block.self_attn
        heads = [getattr(part, f"{one}_proj")(normed).unflatten(1, (part.num_heads, -1))
                 for one in "qkv"]
        query, key, value = (one.transpose(0, 1) for one in heads)
        weights = (query @ key.mT * part.scale).masked_fill(~there, -torch.inf).softmax(-1)
        mixed = (weights @ value).transpose(0, 1).flatten(1)
        hidden = hidden + part.out_proj(mixed)
        if number in blocks:
            seen = weights.mean(0)[0]
            own = seen[1:patches + 1].masked_fill(~there[1:patches + 1], -1)
            left = -int(-(own >= 0).sum() * keep // 1)
            kept = torch.zeros_like(there)
            kept[0] = True
            kept[own.topk(left).indices + 1] = True
            extra = (seen[:, None] * hidden)[there & ~kept].sum(0)
            hidden, there = torch.cat([hidden, extra[None]]), torch.cat([kept, kept[:1]])
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
    return tower.projector(hidden[1:patches + 1]), there[1:patches + 1]


@pytest.mark.parametrize("keep", [0.7, 0.3])
@pytest.mark.parametrize("blocks", BLOCKS)
@torch.no_grad()
def test_the_shorter_tower_is_one_whose_rows_are_masked(blocks, keep):
    model, inputs = tiny_llava_model(), tiny_inputs(images=(1, 2))
    with rcp.attach(model, plugin_of(model, blocks, keep)) as handle, handle.trace() as trace:
        found = visual_features(encode_images(model, inputs))
        model(**inputs)
    count = patches_by_step(TOKENS, keep, len(blocks))[-1]
    assert trace.plan.kept.tolist() == [[count, 2 * count]]
    for pixels, features in zip(inputs["pixel_values"], found):
        expected, left = by_masks(model, pixels, blocks, keep)
        assert left.sum() == count
        assert error(features[left], expected[left]) < 1e-5
        assert not features[~left].any()


@pytest.mark.parametrize("policy", ["keep", "repack"])
@pytest.mark.parametrize("stages", [[], LATER], ids=["alone", "stages"])
@pytest.mark.parametrize("batch", BATCHES)
def test_what_the_tower_drops_is_dropped_as_it_is_masked(batch, stages, policy):
    case = family("llava-llama")
    plugin = plugin_of(case.model, stages=stages, position_policy=policy)
    inputs = case.inputs(BATCHES[batch])
    text = text_of(inputs, backbone_for(case.model))
    drop, soft = (logits(case, plugin, mode, inputs)[text] for mode in ("drop", "soft"))
    assert error(drop, soft) < 1e-5
    whole = logits(case, plugin, "record", inputs)[text]
    if any(sample.images for sample in BATCHES[batch]):
        assert error(drop, whole) > 1e-3, "dropping must matter"


@pytest.mark.parametrize("name", ["llava-llama", "llava-mistral-window", "llava-qwen3"])
@pytest.mark.parametrize("stages", [[], LATER], ids=["alone", "stages"])
def test_generate_equals_the_masked_model_and_the_rows_alone(name, stages):
    case = family(name)
    plugin = plugin_of(case.model, stages=stages)
    samples = (Sample(0), Sample(1, images=2, question=9))
    together = dropped(case, plugin, case.inputs(samples)).sequences
    assert torch.equal(together, masked(case, plugin, case.inputs(samples)).sequences)
    beams = dropped(case, plugin, case.inputs(samples), num_beams=2).sequences
    assert len(beams) == 2
    for row, sample in enumerate(samples):
        alone = dropped(case, plugin, case.inputs((sample,))).sequences
        assert torch.equal(together[row, -4:], alone[0, -4:])


@torch.no_grad()
def test_survivors_stay_in_their_places_whatever_stands_beside_them():
    model, inputs = tiny_llava_model(), tiny_inputs(images=(1, 2))
    plugin = plugin_of(model)
    with rcp.attach(model, plugin) as handle, handle.trace() as trace:
        model(**inputs)
        together = [trace.plan.alive[0, row][inputs["attention_mask"][row].bool()]
                    for row in range(2)]
        for row, expected in enumerate(together):
            model(**row_of(inputs, row, (1, 2)))
            assert torch.equal(trace.plan.alive[0, 0], expected)


@torch.no_grad()
def test_images_encoded_once_are_taken_again_with_their_places():
    model, inputs = tiny_llava_model(), tiny_inputs()
    plugin = plugin_of(model)
    with rcp.attach(model, plugin):
        expected = model(**inputs).logits
        features = encode_images(model, inputs)
    tower = model.base_model.vision_tower
    with given_images(model, features), rcp.attach(model, plugin):
        hook = tower.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
        assert torch.equal(model(**inputs).logits, expected)
        hook.remove()
    whole = encode_images(model, inputs)
    assert visual_features(whole).any(-1).all()
    with given_images(model, whole), rcp.attach(model, plugin):
        with pytest.raises(rcp.UserError, match="tower_survivors.*encode"):
            model(**inputs)


@torch.no_grad()
def test_a_plan_is_replayed_and_the_model_is_what_it_was():
    model, inputs = tiny_llava_model(), tiny_inputs()
    before = model(**inputs).logits
    own = {name: len(part._forward_hooks) + len(part._forward_pre_hooks)
           for name, part in model.named_modules()}
    plugin = plugin_of(model, stages=LATER)
    with rcp.attach(model, plugin) as handle, handle.trace() as trace:
        expected = model(**inputs).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**inputs).logits, expected)
        pixels = inputs["pixel_values"]
        alone = model.base_model.vision_tower(pixels).last_hidden_state
        assert alone.shape[1] == TOKENS + 1, "called by itself, the tower stays whole"
    with rcp.attach(model, plugin, plan=trace.plan):
        assert torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model(**inputs).logits, before)
    assert own == {name: len(part._forward_hooks) + len(part._forward_pre_hooks)
                   for name, part in model.named_modules()}


@torch.no_grad()
def test_recorded_states_of_the_tower_are_as_short_as_it_is():
    """Whoever asks for hidden states first, before a plug-in is attached or after."""
    model, inputs = tiny_llava_model(), tiny_inputs()
    pixels = inputs["pixel_values"]
    model.base_model.get_image_features(pixels, output_hidden_states=True)
    with rcp.attach(model, plugin_of(model)):
        states = model.base_model.get_image_features(pixels, output_hidden_states=True)
        assert [state.shape[1] for state in states.hidden_states] == [17, 14, 11]
        with pytest.raises(rcp.UserError, match="given 13 rows.*kept 9.*vision_feature_layer"):
            model.base_model.get_image_features(pixels, vision_feature_layer=-2)


def test_saved_and_loaded_it_drops_the_same(tmp_path):
    model, inputs = tiny_llava_model(), tiny_inputs()
    plugin = plugin_of(model, stages=LATER)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    assert json.loads((tmp_path / "plugin" / "plugin.json").read_text())["plugin"]["tower"] == {
        "blocks": [0, 1], "keep": 0.7
    }
    assert "[0, 1] keep 70.00% of their patches" in (tmp_path / "plugin" / "README.md").read_text()
    loaded = rcp.load_plugin(tmp_path / "plugin")
    assert loaded.spec == plugin.spec and loaded.schedule == plugin.schedule
    found = []
    for one in (plugin, loaded):
        with torch.no_grad(), rcp.attach(model, one):
            found.append(model(**inputs).logits)
    assert torch.equal(*found)


def test_flops_by_hand_and_as_torch_counts_them():
    model, inputs = tiny_llava_model(), tiny_inputs((5,), (1,))
    sizes = tower_sizes(backbone_for(model))
    assert sizes == TowerSizes(32, 64, 2, 192, 32 * 48 + 48 * 48)
    embedding, attention, projector = 2 * 16 * 192 * 32, 139264 + 36992, 2 * 3840
    full = embedding + 2 * (attention + 17 * 8192) + 16 * projector
    # block 1 keeps 8 of 16: its MLP is given [CLS], these and the fused row
    half = embedding + attention + 17 * 8192 + attention + 33 * 64 + 10 * 8192 + 8 * projector
    assert (tower_flops(sizes, 16, {}), tower_flops(sizes, 16, {1: 8})) == (full, half)
    assert (full, half) == (950528, 833856)

    def encode():
        model.base_model.get_image_features(inputs["pixel_values"])

    assert counted(encode) == full
    with rcp.attach(model, plugin_of(model, [1], 0.5)):
        assert counted(encode) == half
    with rcp.attach(model, plugin_of(model, [0, 1], 0.5)):
        assert counted(encode) == tower_flops(sizes, 16, {0: 8, 1: 4})


def test_what_cannot_be_is_refused_by_name():
    model = tiny_llava_model()
    stage = rcp.StageSpec
    for fields, message in (
        ({"blocks": []}, "tower.blocks is \\[\\].*at least one"),
        ({"blocks": [1, 0]}, "tower.blocks is \\[1, 0\\].*rising"),
        ({"blocks": [-1]}, "tower.blocks is \\[-1\\].*from 0"),
        ({"blocks": [1, 1]}, "tower.blocks is \\[1, 1\\].*once"),
        ({"keep": 0.0}, "tower.keep is 0.0.*above 0"),
        ({"keep": 1.0}, "tower.keep is 1.0.*below 1"),
        ({"keep": float("nan")}, "keep is 'nan'"),
        ({"blocks": [2]}, "behind 2 blocks of its vision tower.*block 2, counted from 0"),
        ({"stages": [stage(0, 0.2, "random")]}, "layers \\[0\\].*vision tower"),
        ({"stages": [stage(2, 0.9, "random")]}, "never rise"),
        ({"stages": [stage(2, 0.2, "cls_attention")]}, "'cls_attention'.*'vision_cls_attention'"),
        ({"stages": [stage(2, 0.2, "oracle")]}, "'oracle'.*'full_attention'"),
        ({"stages": LATER, "repair": rcp.RepairSpec([3], "vision_remember", {"side": 2})},
         "'vision_remember' needs 'encoder_levels'"),
        ({"stages": LATER, "selection": "threshold"}, "'threshold' and tower"),
        ({"stages": LATER, "budgets": [0.1, 0.3]}, "budgets and tower"),
    ):
        with pytest.raises(rcp.UserError, match=message):
            plugin_of(model, **fields)
    with pytest.raises(rcp.UserError, match="budget of 10.00%.*tower.keep"):
        rcp.attach(model, plugin_of(model), budget=0.1)
    with rcp.attach(model, plugin_of(model)):
        with pytest.raises(rcp.UserError, match="visual_budget is 0.1.*tower.keep"):
            model.generate(**tiny_inputs(), visual_budget=0.1, max_new_tokens=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("llava_next", "one visual token of each row"), ("llava_onevision", "one visual token"),
     ("vipllava", "one visual token"), ("qwen2_5_vl", "hides its vision tower"),
     ("internvl", "one visual token")],
)
def test_other_towers_are_refused_by_name(name, reason):
    case = family(name)
    with pytest.raises(rcp.UserError, match=f"{type(case.model).__name__} .*{reason}"):
        plugin_of(case.model)


@pytest.mark.parametrize(
    ("where", "field", "value", "reason"),
    [("", "vision_feature_layer", [-1, -2], "several layers \\[-1, -2\\]"),
     ("", "vision_feature_select_strategy", "full", "\\[CLS\\], too"),
     ("", "vision_feature_layer", -2, "behind 1 blocks of its vision tower.*block 1,"),
     ("", "vision_feature_layer", 0, "behind 0 blocks of its vision tower.*block 0,"),
     ("vision_config", "model_type", "siglip_vision_model", "'siglip_vision_model'")],
)
def test_towers_that_are_read_in_other_ways_are_refused(where, field, value, reason):
    model = tiny_llava_model()
    plugin = plugin_of(model)
    setattr(getattr(model.config, where) if where else model.config, field, value)
    with pytest.raises(rcp.UserError, match=reason):
        plugin.spec.tower.check_on(backbone_for(model))
