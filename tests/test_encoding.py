"""Facts of the vision side: right for every family that has them, refused by name elsewhere."""

import pytest
import torch

from rcp import Plugin, PluginSpec, Pruner, StageSpec, UserError, attach
from rcp.attaching.encoder_watch import watching
from rcp.backbones import backbone_for
from rcp.backbones.tower import VISION_FACTS
from rcp.choosing.merging import unmerged, weighted_sum
from rcp.pruners import PRUNERS
from tests.decoding import dropped, error, family, generated, logits, masked
from tests.families import FAMILIES, Sample
from tests.families.batches import BATCHES, text_of

WITH_FACTS = {"llava", "llava_next", "llava_next_video", "llava_onevision", "vipllava",
              "internvl", "qianfan_ocr", "fast_vlm", "paligemma"}


def facts_of(case) -> list[str]:
    tower = backbone_for(case.model).tower
    return [] if tower is None else [f for f in VISION_FACTS if tower.missing(f) is None]


@pytest.fixture
def probe():
    """A pruner that shows what it was given, and folds what it drops into its weakest token."""
    seen = []

    class Probe(Pruner):
        name = "probe"
        needs = frozenset({"projected", "question_embeds"})
        uses = frozenset(VISION_FACTS)

        def forward(self, view):
            seen.append(view)
            return view.given("projected")[..., 0].float().abs()

        def merge(self, view, keep):
            scores = self(view)
            carrier = scores.masked_fill(~keep, torch.inf).argmin(1, keepdim=True)
            share = 0.1 * scores * (view.alive & ~keep)
            return weighted_sum(unmerged(keep, view.most), carrier, share.scatter(1, carrier, 1.0))

    yield seen
    PRUNERS._classes.pop("probe")


def probe_plugin(model, layers=(0, 3), ratios=(0.5, 0.2)) -> Plugin:
    stages = [StageSpec(layer, ratio, "probe") for layer, ratio in zip(layers, ratios)]
    return Plugin.for_model(PluginSpec(stages), model).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_belong_to_their_tokens(name, probe):
    """The projector turns the encoder token of a slot into the embedding of that slot."""
    case = family(name)
    assert bool(facts_of(case)) == (case.model.config.model_type in WITH_FACTS)
    for samples in BATCHES.values():
        inputs = case.inputs(samples)
        plugin = probe_plugin(case.model)
        probe.clear()
        with torch.no_grad(), attach(case.model, plugin, "drop"):
            case.model(**inputs)
        assert probe, "nothing was looked at"
        for view in probe:
            if view.encoder_tokens is None:
                assert "encoder_tokens" not in facts_of(case)
                continue
            made = view.projector(view.encoder_tokens)
            real = view.alive & view.encoder_tokens.any(-1)  # newline rows are made of nothing
            gap = (made - view.projected)[real].abs().max() / view.projected[real].abs().max()
            # PaliGemma scales what it projects
            scale = case.model.config.text_config.hidden_size**0.5
            scaled = (made / scale - view.projected)[real].abs().max()
            assert gap < 1e-5 or scaled < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_tokens_are_masked_as_they_are_dropped(name, probe):
    case = family(name)
    inputs = case.inputs(BATCHES["ragged"])
    plugin = probe_plugin(case.model)
    text = text_of(inputs, backbone_for(case.model))
    soft, drop = (logits(case, plugin, mode, inputs)[text] for mode in ("soft", "drop"))
    assert error(drop, soft) < 1e-5
    kept = probe_plugin(case.model)
    kept.pruner(0).merge = kept.pruner(3).merge = lambda view, keep: None
    assert error(logits(case, kept, "drop", inputs)[text], drop) > 1e-4, "merging must matter"


@pytest.mark.parametrize("name", ["llava-llama", "vipllava", "llava_next", "internvl"])
def test_cls_attention_is_that_of_eager_attention(name, probe):
    case = FAMILIES[name]()
    assert "vision_cls_attention" in facts_of(case)
    backbone = backbone_for(case.model)
    inputs = case.inputs((Sample(0),))
    with torch.no_grad(), attach(case.model, probe_plugin(case.model), "drop"):
        case.model(**inputs)
    tower = case.model.base_model.vision_tower
    tower.set_attn_implementation("eager")
    rows = []
    module = backbone.tower.attention
    hook = module.register_forward_hook(lambda *call: rows.append(call[-1][1]))
    with torch.no_grad():
        case.model(**inputs)
    hook.remove()
    attention = rows[0].mean(1)[:, 0, 1:]
    seen = probe[0].vision_cls_attention
    if name == "internvl":  # a token stands for a block of patches
        side = round(attention.shape[1] ** 0.5)
        attention = torch.nn.functional.avg_pool2d(attention.unflatten(1, (side, side)), 2)
        attention = attention.flatten(1)
    if name == "llava_next":  # the base image first, unpadded tiles and newlines after it
        seen, attention = seen[:, : attention.shape[1]], attention[:1]
    assert torch.allclose(seen.flatten(), attention.flatten(), atol=1e-6)


def test_a_missing_fact_is_refused_by_name(tiny_llava):
    plugin = Plugin.for_model(PluginSpec([StageSpec(0, 0.5, "cls_attention")]), tiny_llava)
    attach(tiny_llava, plugin).remove()
    for name, reason in (("llava_onevision", r"without a \[CLS\]"), ("gemma3", "inside its proj")):
        case = family(name)
        plugin = Plugin.for_model(PluginSpec([StageSpec(0, 0.5, "cls_attention")]), case.model)
        with pytest.raises(UserError, match=f"{reason}.*vision_cls_attention.*rcp pruners"):
            attach(case.model, plugin)


@pytest.mark.parametrize("name", ["llava-llama", "llava_next"])
def test_generate_gets_the_facts_of_its_own_images(name, probe):
    """Encoded before the first forward, with beams, interleaved, or ahead of time."""
    case = family(name)
    plugin = probe_plugin(case.model)
    one, other = case.inputs((Sample(0), Sample(1, images=2))), case.inputs((Sample(5),))
    same = dropped(case, plugin, one)
    assert torch.equal(same.sequences, masked(case, plugin, one).sequences)
    beams = dropped(case, plugin, one, num_beams=2)
    probe.clear()
    with attach(case.model, plugin, "drop"):
        generated(case, one, num_beams=2)
        assert torch.equal(probe[0].encoder_tokens[0], probe[0].encoder_tokens[1])
        assert not torch.equal(probe[0].encoder_tokens[0], probe[0].encoder_tokens[2])
        features = case.model.base_model.get_image_features
        pixels = {k: v for k, v in one.items() if k in ("pixel_values", "image_sizes")}
        early = features(**pixels, return_dict=True)
        generated(case, other)  # another request in between
        rest = {k: v for k, v in one.items() if k not in pixels}
        late = generated(case, rest | {"mm_encoder_outputs": {"image": early}})
    assert torch.equal(late.sequences, same.sequences) and beams.sequences.shape[0] == 2
    bare = case.model.base_model.get_image_features(**pixels, return_dict=True)
    with watching(case.model, plugin.pruner(0).uses):
        watched = case.model.base_model.get_image_features(**pixels, return_dict=True)
    assert "get_image_features" not in vars(case.model.base_model)
    with attach(case.model, plugin, "drop"):
        again = generated(case, rest | {"mm_encoder_outputs": {"image": watched}})
        assert torch.equal(again.sequences, same.sequences)
        with pytest.raises(UserError, match="without the plug-in attached"):
            generated(case, rest | {"mm_encoder_outputs": {"image": bare}})


def test_a_plan_replays_its_merges(tiny_llava, inputs, probe, tmp_path):
    plugin = probe_plugin(tiny_llava)
    with torch.no_grad():
        with attach(tiny_llava, plugin, "drop") as handle, handle.trace() as trace:
            expected = tiny_llava(**inputs).logits
        trace.plan.save(tmp_path / "plan.safetensors")
        plan = type(trace.plan).load(tmp_path / "plan.safetensors")
        assert set(plan.merges) == {0, 1}
        with attach(tiny_llava, plugin, "drop", plan=plan):
            assert torch.equal(tiny_llava(**inputs).logits, expected)
