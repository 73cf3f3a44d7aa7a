"""Engines and families whose positions are places: where what is left of an image stands, and which
tokens these are, on modules shaped like the engine's own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rcp import Plugin, PluginSpec, StageSpec, UserError, attach, plan_of, save_plugin
from rcp.attaching.cache_names import cache_in
from rcp.serving.vllm.command_line import engine_arguments
from rcp.serving.vllm.decoder import PlacedDecoder, TiledDecoder
from rcp.serving.vllm.mrope_positions import (
    Placed,
    after_choice,
    ahead,
    apart,
    around_grid,
    before_choice,
    places,
    with_places,
)
from rcp.serving.vllm.placed import PlacedModel
from rcp.serving.vllm.pruned import PrunedModel, Pruning
from rcp.serving.vllm.request import KEY, SIZE, ChoiceKey
from rcp.serving.vllm.settings import Settings
from tests.decoding import family
from tests.engine_stand_in import FusedAttention
from tests.families import Sample
from tests.tiny import randomised, tiny_llava_model

PLACE = 7
"""The placeholder in the prompts below."""


# -- positions -----------------------------------------------------------------------------------


def test_an_image_spans_its_longer_side():
    """2 words, 2 x 3 tokens from position 2 on, 2 words from position 5 on."""
    assert around_grid(2, (2, 3), 2).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


def test_what_is_left_stands_at_its_place_and_text_where_it_stood():
    """1 word, 2 of 3 x 2 tokens, 1 word, 1 of 1 x 5 tokens, 1 word."""
    positions, further = before_choice(6, [Placed(1, 2, 3, 2), Placed(4, 1, 1, 5)])
    assert positions[:, [0, 3, 5]].tolist() == [[0, 4, 10]] * 3 and further == 5 == ahead(positions)
    columns, found = torch.tensor([1, 2, 4]), torch.tensor([[0, 1], [2, 0], [0, 4]])
    corrected = after_choice(positions, columns, found)
    assert corrected.tolist() == [
        [0, 1, 1, 4, 5, 10], [0, 1, 3, 4, 5, 10], [0, 2, 1, 4, 9, 10]
    ]
    assert torch.equal(after_choice(corrected, columns, found), corrected), "it can be made again"
    assert before_choice(0, [])[1] == 0 and before_choice(3, [])[0].tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_are_those_of_transformers(name):
    """Of a prompt that keeps all of its images."""
    case = family(name)
    inputs = case.inputs((Sample(3, images=2, question=4),))
    ids = inputs["input_ids"][0]
    model = case.model.model
    wanted, _ = model.get_rope_index(
        inputs["input_ids"], image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    side = case.model.config.vision_config.spatial_merge_size
    shown = (ids == case.model.config.image_token_id).nonzero()[:, 0]
    at, images = 0, []
    for _, rows, columns in inputs["image_grid_thw"].tolist():
        grid = rows // side, columns // side
        size = grid[0] * grid[1]
        images.append((Placed(int(shown[at]), size, *grid), places(torch.arange(size), grid[1])))
        at += size
    positions, _ = before_choice(len(ids), [image for image, _ in images])
    found = torch.cat([own[:, 1:] for _, own in images])
    assert torch.equal(after_choice(positions, shown, found), wanted[-3:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_places_travel_unrounded(dtype):
    found = torch.tensor([[0, 0], [255, 256], [257, 585], [4000, 3]])
    rows, again = apart(with_places(torch.randn(4, 5).to(dtype), found))
    assert torch.equal(again, found) and rows.shape == (4, 5) and rows.dtype == dtype


# -- the choice ----------------------------------------------------------------------------------


class Rotary:
    """Rotary embeddings as an engine has them: ``positions`` (3, n), or (n,), and flat queries and
    keys."""

    def __init__(self, own, width):
        self.own, self.width = own, width

    def __call__(self, positions, query, key):
        cos, sin = self.own(query[None], positions[..., None, :])

        def turned(flat):
            heads = flat.unflatten(-1, (-1, self.width)).transpose(0, 1)
            half = self.width // 2
            rotated = torch.cat([-heads[..., half:], heads[..., :half]], dim=-1)
            return (heads * cos[0] + rotated * sin[0]).transpose(0, 1).flatten(-2)

        return turned(query), turned(key)


def engine_of(case):
    """The decoder of ``case`` as vLLM would have built it."""
    host = case.model.model.language_model
    layers = nn.ModuleList()
    for layer in host.layers:
        made = nn.Module()
        made.input_layernorm = layer.input_layernorm
        made.self_attn = attention = FusedAttention(layer.self_attn)
        attention.rotary_emb = Rotary(host.rotary_emb, attention.head_dim)
        for norm in ("q_norm", "k_norm"):
            if hasattr(layer.self_attn, norm):
                setattr(attention, norm, getattr(layer.self_attn, norm))
        layers.append(made)
    inner = SimpleNamespace(layers=layers, embed_tokens=host.embed_tokens)
    return SimpleNamespace(
        config=case.model.config,
        language_model=SimpleNamespace(model=inner),
        image_newline=getattr(case.model.model, "image_newline", None),
    )


@pytest.mark.parametrize("method", ["question_attention", "divprune"])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_an_engine_keeps_what_an_attached_plugin_keeps(name, method, tmp_path):
    case = family(name)
    inputs = case.inputs((Sample(3, question=4),))
    spec = PluginSpec([StageSpec(0, 0.4, method)])
    plugin = randomised(Plugin.for_model(spec, case.model))
    plugin.base = None
    save_plugin(plugin, tmp_path / "plugin")
    with torch.no_grad(), attach(case.model, plugin):
        plan = plan_of(cache_in(case.model(**inputs, use_cache=True)))
        features = case.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
    ids, shown = inputs["input_ids"][0], case.model.config.image_token_id
    kept = plan.alive[0, 0][ids == shown].nonzero()[:, 0]
    side = case.model.config.vision_config.spatial_merge_size
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    pruning = Pruning(
        PlacedDecoder(engine_of(case)), Settings(str(tmp_path / "plugin")), shown
    )
    prompt = [*ids[: (ids == shown).nonzero()[0, 0]].tolist(), shown,
              *ids[(ids == shown).nonzero()[-1, 0] + 1 :].tolist()]
    key = ChoiceKey("f", 0.4, tuple(prompt))
    own = features.pooler_output[0]
    ranks, left = pruning.kept(own, key, {}, (rows // side, columns // side))
    assert ranks.tolist() == kept.tolist() and 0 < len(ranks) < len(own)
    torch.testing.assert_close(left, own[ranks])


@pytest.mark.parametrize("method", ["question_attention", "divprune", "uniform"])
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_tiles_are_chosen_among_as_attached(name, method, tmp_path):
    """Rows of tiles end in newlines, which count and have no place."""
    case = family(name)
    inputs = case.inputs((Sample(3, question=4),))
    plugin = randomised(Plugin.for_model(PluginSpec([StageSpec(0, 0.4, method)]), case.model))
    plugin.base = None
    save_plugin(plugin, tmp_path / "plugin")
    shown = case.model.config.image_token_index
    with torch.no_grad(), attach(case.model, plugin):
        plan = plan_of(cache_in(case.model(**inputs, use_cache=True)))
        features = case.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"], return_dict=True
        ).pooler_output[0]
    ids = inputs["input_ids"][0]
    columns = (ids == shown).nonzero()[:, 0]
    kept = plan.alive[0, 0][columns].nonzero()[:, 0]
    pruning = Pruning(
        TiledDecoder(engine_of(case)), Settings(str(tmp_path / "plugin")), shown
    )
    prompt = (*ids[: columns[0]].tolist(), shown, *ids[columns[-1] + 1 :].tolist())
    ranks, left = pruning.kept(features, ChoiceKey("f", 0.4, prompt), {})
    assert ranks.tolist() == kept.tolist() and 0 < len(ranks) < len(features)
    torch.testing.assert_close(left, features[ranks])


def test_a_method_that_reads_the_tower_is_refused_where_it_is_not_shown(tmp_path):
    case = family("llava_next")
    plugin = Plugin.for_model(PluginSpec([StageSpec(0, 0.4, "cls_attention")]), case.model)
    save_plugin(plugin, tmp_path / "plugin")
    with pytest.raises(UserError, match="vision_cls_attention"):
        Pruning(TiledDecoder(engine_of(case)), Settings(str(tmp_path / "plugin")), 0)


# -- requests ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    spec = PluginSpec([StageSpec(0, 0.25, "divprune")])
    save_plugin(Plugin.for_model(spec, tiny_llava_model()), tmp_path / "plugin")
    return str(tmp_path / "plugin")


def key_of(folder, sizes, **arguments):
    entry = Settings(folder).entry()
    return ChoiceKey.of(arguments, entry, "f", (1, PLACE, 5), PLACE, sizes, None), entry


def test_a_number_of_tokens_is_kept_of_images_of_any_size(folder):
    key, entry = key_of(folder, [20, 50, 30], visual_budget=10)
    assert ChoiceKey.read(key.written()) == key
    assert ChoiceKey.taken(key.arguments()) == (key, {}) and set(key.arguments()) == {KEY}
    for size, count in ((20, 10), (50, 10), (30, 10), (10, 10)):
        assert key.of_size(size, entry).count(size) == count
    same, _ = key_of(folder, [20, 20], visual_budget=10)
    assert same.share == 0.5, "one share, which other requests find in the caches"
    shared, _ = key_of(folder, [20, 50], visual_budget=0.3)
    assert shared.share == pytest.approx(0.3) and shared.of_size(50, entry).count(50) == 15


def test_a_number_that_one_of_the_images_has_not_is_refused(folder):
    with pytest.raises(UserError, match="budget of 30 .* this model has 20"):
        key_of(folder, [40, 20], visual_budget=30)
    key, _ = key_of(folder, [], visual_budget=30)
    assert key == ChoiceKey("", None, ()), "text alone has nothing to keep"


# -- the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    ["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
     "Qwen3VLForConditionalGeneration"],
)
def test_the_engine_is_told_to_ask_for_places_and_to_take_no_videos(folder, architecture):
    assert engine_arguments(Settings(folder), architecture) == {
        "hf_overrides": {"architectures": [f"Rcp{architecture}"], "rcp": {"plugin": folder}},
        "video_pruning_rate": 0.5,
        "limit_mm_per_prompt": {"video": 0},
    }


def engine_config(folder, videos=0, pruning=True, tensor=1):
    multimodal = SimpleNamespace(
        is_multimodal_pruning_enabled=lambda: pruning, get_limit_per_prompt=lambda kind: videos
    )
    return SimpleNamespace(
        parallel_config=SimpleNamespace(tensor_parallel_size=tensor, pipeline_parallel_size=1),
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(rcp={"plugin": folder}), multimodal_config=multimodal
        ),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"videos": 1}, "videos are pruned by nothing here.*limit-mm-per-prompt"),
        ({"pruning": False}, "without --video-pruning-rate"),
        ({"tensor": 2}, "tensor or pipeline parallelism"),
    ],
)
def test_an_engine_that_cannot_prune_is_refused(folder, changes, reason):
    PlacedModel.refuse_engine(engine_config(folder))
    with pytest.raises(UserError, match=reason):
        PlacedModel.refuse_engine(engine_config(folder, **changes))


def test_gaps_of_places_are_not_closed(tmp_path):
    spec = PluginSpec([StageSpec(0, 0.25, "divprune")], position_policy="repack")
    save_plugin(Plugin.for_model(spec, tiny_llava_model()), tmp_path / "plugin")
    with pytest.raises(UserError, match="'repack' closes gaps.*'keep'"):
        PlacedModel.refuse_engine(engine_config(str(tmp_path / "plugin")))


def test_models_of_tiles_count_positions_and_take_no_videos(folder):
    for name, videos in (("LlavaNext", {}), ("LlavaOnevision", {"video": 0})):
        found = engine_arguments(Settings(folder), f"{name}ForConditionalGeneration")
        assert found["hf_overrides"]["mrope_section"] == [1, 1, 1]
        assert found.get("limit_mm_per_prompt", {}) == videos


def test_the_model_is_told_how_many_tokens_an_image_had():
    told = SimpleNamespace(data={SIZE: SimpleNamespace(data=torch.tensor(88))})
    assert PrunedModel().full_tokens(told) == 88
    key = ChoiceKey("f", 0.5, (1, 2))
    arguments = {KEY: [key.written()], SIZE: torch.tensor([88]), "pixel_values": 1}
    assert PrunedModel.keys_in(arguments) == [key] and arguments == {"pixel_values": 1}
    assert PrunedModel.keys_in({}) == []


def feature(offset, length, grid):
    return SimpleNamespace(mm_position=SimpleNamespace(offset=offset, length=length), grid=grid)


def test_positions_are_corrected_by_what_the_rows_carry():
    """In parts, as chunks of a prompt come, and whatever order features are handed over in."""
    model = PlacedModel()
    model.pruning = SimpleNamespace(placeholder=PLACE)
    model.grid = lambda one: one.grid
    ids = [1, PLACE, PLACE, 2, PLACE, 3]
    positions, further = model.get_mrope_input_positions(
        ids, [feature(4, 1, (1, 5)), feature(1, 2, (3, 2))]
    )
    first = with_places(torch.ones(1, 4), torch.tensor([[0, 1]]))
    rows, positions, again = model.recompute_mrope_positions(ids, [first], positions, 0)
    assert rows[0].shape == (1, 4) and again == further == 5
    others = [with_places(torch.ones(1, 4), torch.tensor([place])) for place in ([2, 0], [0, 4])]
    _, positions, _ = model.recompute_mrope_positions(ids, others, positions, 2)
    assert positions.tolist() == [
        [0, 1, 1, 4, 5, 10], [0, 1, 3, 4, 5, 10], [0, 2, 1, 4, 9, 10]
    ]
    nothing, same, _ = model.recompute_mrope_positions(ids, [], positions, 6)
    assert nothing == [] and torch.equal(same, positions)


def test_what_later_layers_are_given_stays_with_its_row():
    """Deepstack: features that lie beside a token's own."""
    model = PlacedModel()
    kept = torch.tensor([1, 4])
    model.pruning = SimpleNamespace(
        entry=SimpleNamespace(hidden_size=3),
        kept=lambda features, key, encoded, grid: (kept, features[kept]),
    )
    features = torch.arange(30.0).view(6, 5)
    rows, found = apart(model.placed(features, None, (2, 3)))
    assert torch.equal(rows, features[kept]) and found.tolist() == [[0, 1], [1, 1]]
