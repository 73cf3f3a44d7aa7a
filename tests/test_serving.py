"""What an engine is told of a plug-in, and what it chooses, on modules shaped like its own."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rcp import (
    Plugin,
    PluginSpec,
    Pruner,
    RepairSpec,
    StageSpec,
    UserError,
    attach,
    plan_of,
    save_plugin,
)
from rcp.__main__ import main
from rcp.attaching.cache_names import cache_in
from rcp.choosing.calibrated import Calibration
from rcp.choosing.view import LOOKS_BACK
from rcp.plugin import LoraSpec
from rcp.pruners import PRUNERS
from rcp.serving.vllm.budgets import ALL, share_of
from rcp.serving.vllm.choice import chosen, prepared
from rcp.serving.vllm.command_line import engine_arguments, serve_command
from rcp.serving.vllm.decoder import FusedDecoder
from rcp.serving.vllm.entry_stage import entry_stage
from rcp.serving.vllm.positions import Image, after_choice, apart, before_choice, with_ranks
from rcp.serving.vllm.pruned import PrunedModel, Pruning
from rcp.serving.vllm.request import KEY, ChoiceKey, alone
from rcp.serving.vllm.settings import Settings
from tests.engine_stand_in import EngineModel
from tests.tiny import (
    COVIPAL_ARGUMENTS,
    FILM_ARGUMENTS,
    IMAGE,
    RCP_ARGUMENTS,
    TOKENS,
    randomised,
    tiny_inputs,
    tiny_llava_model,
)

ARGUMENTS = {"rcp": RCP_ARGUMENTS, "covipal": COVIPAL_ARGUMENTS}


def at_the_entry(name: str) -> bool:
    cls = PRUNERS.get(name)
    beyond = cls.needs & (LOOKS_BACK | {"full_attention"})
    return not (beyond or cls.may_drop_all or cls.wraps)


METHODS = [name for name in PRUNERS.names() if at_the_entry(name)]


def plugin_of(model, method: str = "rcp", ratio: float = 0.25, **spec: object) -> Plugin:
    stage = StageSpec(0, ratio, method, ARGUMENTS.get(method, {}))
    return randomised(Plugin.for_model(PluginSpec([stage], **spec), model))


# -- the choice ----------------------------------------------------------------------------------

def served(model, plugin, ids, pixels):
    """Ranks and rows of the one image of ``ids`` (T,), as an engine's model finds them."""
    host, taken = model.model, {}
    engine = EngineModel(model)
    backbone = FusedDecoder(engine)
    backbone.lora = plugin.lora
    tower = backbone.tower
    attention = host.vision_tower.encoder.layers[-1].self_attn

    def take(_, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        taken.update((fact, make(hidden)[0]) for fact, make in tower.of_attention.items())

    hook = attention.register_forward_pre_hook(take, with_kwargs=True)
    encoded = host.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    hook.remove()
    features = host.multi_modal_projector(encoded)[0]
    at = int((ids == IMAGE).nonzero()[0])
    embed = backbone.embed
    before, after = embed(ids[:at]), embed(ids[at + TOKENS :])
    setup = prepared(backbone, plugin)
    known = {"encoder_tokens": encoded[0], "patch_entropy": tower.entropy(pixels)[0], **taken}
    facts = {name: fact for name, fact in known.items() if name in setup.facts}
    return features, *chosen(setup, features, before, after, facts)


@pytest.mark.parametrize("policy", ["keep", "repack"])
@pytest.mark.parametrize("method", METHODS)
def test_an_engine_keeps_what_an_attached_plugin_keeps(method, policy):
    model = tiny_llava_model()
    plugin = plugin_of(model, method, 0.4, position_policy=policy)
    inputs = tiny_inputs((6,), (1,))
    with torch.no_grad(), attach(model, plugin):
        plan = plan_of(cache_in(model(**inputs)))
    kept = plan.alive[0, 0][inputs["input_ids"][0] == IMAGE]
    features, ranks, rows = served(model, plugin, inputs["input_ids"][0], inputs["pixel_values"])
    assert ranks.tolist() == kept.nonzero()[:, 0].tolist() and len(ranks) == 6
    merged = plan.merges.get(0)
    wanted = features[ranks] if merged is None else merged[0] @ features
    torch.testing.assert_close(rows, wanted)


@pytest.mark.parametrize("method", ["rcp", "question_attention"])
def test_a_choice_is_made_with_the_adapters_that_the_engine_serves(method):
    """The engine's own products know them for its batch alone, which a choice is not of."""
    lora = LoraSpec(rank=3, alpha=60.0, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = tiny_llava_model()
    stage = StageSpec(0, 0.4, method, ARGUMENTS.get(method, {}))
    plugin = randomised(Plugin.for_model(PluginSpec([stage], lora=lora), model))
    inputs = tiny_inputs((6,), (1,))
    kept = {}
    for name, one in (("with", plugin), ("without", bare(plugin))):
        with torch.no_grad(), attach(model, one):
            plan = plan_of(cache_in(model(**inputs)))
        kept[name] = plan.alive[0, 0][inputs["input_ids"][0] == IMAGE].nonzero()[:, 0].tolist()
    entry = entry_stage(plugin, False)
    _, ranks, _ = served(model, entry, inputs["input_ids"][0], inputs["pixel_values"])
    assert ranks.tolist() == kept["with"] != kept["without"]


def bare(plugin: Plugin) -> Plugin:
    """The pruners alone."""
    made = Plugin(replace(plugin.spec, lora=None), plugin.hidden_size, plugin.num_layers)
    made.pruners = plugin.pruners
    return made


@pytest.mark.parametrize("method", [m for m in METHODS if not PRUNERS.get(m).reads_question])
def test_a_method_that_promises_it_does_not_see_the_question(method):
    """It chooses the same among all words, and with none at all."""
    model = tiny_llava_model()
    plugin = plugin_of(model, method, 0.4)
    pixels = tiny_inputs((6,), (1,))["pixel_values"]
    text = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(5))
    image = torch.full((TOKENS,), IMAGE)
    prompts = [torch.cat([words[:2], image, words[2:]]) for words in text] + [image]
    choices = {tuple(served(model, plugin, ids, pixels)[1].tolist()) for ids in prompts}
    assert len(choices) == 1


def test_a_method_of_ones_own_is_taken_to_read_the_question():
    assert Pruner.reads_question


def test_what_the_base_cannot_be_is_refused():
    plugin = plugin_of(tiny_llava_model())
    other = FusedDecoder(EngineModel(tiny_llava_model(num_hidden_layers=4)))
    with pytest.raises(UserError, match="width 48 with 6 layers.*width 48 and 4 layers"):
        prepared(other, plugin)
    windowed = EngineModel(tiny_llava_model())
    windowed.config.text_config.sliding_window = 8
    with pytest.raises(UserError, match="sliding windows.*full attention"):
        prepared(FusedDecoder(windowed), plugin)


# -- the caches' key -----------------------------------------------------------------------------

def key_of(plugin, prompt=(1, IMAGE, 5), fingerprint="f", default=None, **arguments):
    return ChoiceKey.of(arguments, plugin, fingerprint, prompt, IMAGE, [TOKENS], default)


def test_the_key_tells_questions_budgets_and_plugins_apart():
    plugin = plugin_of(tiny_llava_model(), budgets=[0.1, 0.5])
    keys = [
        key_of(plugin),
        key_of(plugin, prompt=(1, IMAGE, 6)),
        key_of(plugin, prompt=(2, IMAGE, 5)),
        key_of(plugin, visual_budget=8),
        key_of(plugin, fingerprint="g"),
        key_of(plugin, visual_budget=ALL),
    ]
    made = [json.dumps(key.arguments()[KEY]) for key in keys]
    assert len(set(made)) == len(keys)


def test_the_key_is_all_that_is_told_and_nothing_more():
    plugin = plugin_of(tiny_llava_model(), budgets=[0.1, 0.5])
    key = key_of(plugin, visual_budget=5)
    assert set(key.arguments()) == {KEY}
    assert ChoiceKey.taken({**key.arguments(), "size": 3}) == (key, {"size": 3})
    assert ChoiceKey.read(key.written()) == key and key.written().dtype == torch.uint8
    assert key.count(TOKENS) == 5


def test_questions_share_an_image_where_the_method_sees_none():
    model = tiny_llava_model()
    image_only = plugin_of(model, "divprune")
    assert key_of(image_only) == key_of(image_only, prompt=(3, 3, IMAGE, 9))
    assert key_of(image_only).prompt == ()
    unpruned = key_of(plugin_of(model), visual_budget=ALL)
    assert unpruned == ChoiceKey("", None, ()) and unpruned.count(TOKENS) == TOKENS


def test_of_several_images_each_is_looked_at_in_the_last_ones_place():
    assert alone((1, IMAGE, 5, IMAGE, 6), IMAGE) == (1, 5, IMAGE, 6)
    assert alone((1, 5), IMAGE) == (1, 5)


@pytest.mark.parametrize("name", [KEY, "size"])
def test_a_request_sets_its_budget_and_nothing_else(name):
    with pytest.raises(UserError, match=f"holds '{name}'.*'visual_budget' from requests"):
        key_of(plugin_of(tiny_llava_model()), visual_budget=4, **{name: {}})


# -- budgets -------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    "asked, share",
    [(None, 0.25), (4, 0.25), (4.0, 0.25), (0.5, 0.5), (1, 1 / 16), (16, 1.0), (ALL, None)],
)
def test_a_method_without_weights_keeps_any_number(asked, share):
    assert share_of(asked, plugin_of(tiny_llava_model(), "divprune"), TOKENS) == share


@pytest.mark.parametrize(
    "asked", [0, -1, 17, 1.5, True, False, "64", "none", [4], {}, float("nan"), float("inf"), -0.5]
)
def test_what_is_no_budget_is_refused_by_name(asked):
    with pytest.raises(UserError, match="visual_budget is|budget of 17"):
        share_of(asked, plugin_of(tiny_llava_model(), "divprune"), TOKENS)


def test_a_trained_plugin_keeps_what_it_was_trained_for():
    model = tiny_llava_model()
    ranged = plugin_of(model, budgets=[0.125, 0.5])
    assert share_of(8, ranged, TOKENS) == pytest.approx(0.5)
    assert share_of(0.2, ranged, TOKENS) == pytest.approx(0.2)
    with pytest.raises(UserError, match="62.50%.*trained for"):
        share_of(10, ranged, TOKENS)
    fixed = plugin_of(model)
    assert share_of(4, fixed, TOKENS) == 0.25
    with pytest.raises(UserError, match="one budget of 25.00%"):
        share_of(5, fixed, TOKENS)
    assert share_of(ALL, fixed, TOKENS) is None


# -- positions -----------------------------------------------------------------------------------

def test_text_stands_where_it_stood_and_survivors_where_they_were():
    """1 word, an image of 6 of which 2 are kept, 1 word, an image of 6 of which 3 are, 1 word."""
    positions, ahead = before_choice(8, [Image(1, 2, 6), Image(4, 3, 6)])
    assert positions[0, [0, 3, 7]].tolist() == [0, 7, 14] and ahead == 7
    columns = torch.tensor([1, 2, 4, 5, 6])
    found, again = after_choice(positions, columns, torch.tensor([0, 4, 1, 2, 5]))
    assert found[0].tolist() == [0, 1, 5, 7, 9, 10, 13, 14] and again == 7
    repeated, _ = after_choice(found, columns, torch.tensor([0, 4, 1, 2, 5]))
    assert torch.equal(repeated, found)  # a request that was interrupted is filled in anew


def test_an_image_may_come_in_parts():
    positions, _ = before_choice(5, [Image(1, 3, 9)])
    first, _ = after_choice(positions, torch.tensor([1]), torch.tensor([2]))
    both, ahead = after_choice(first, torch.tensor([2, 3]), torch.tensor([4, 8]))
    assert both[0].tolist() == [0, 3, 5, 9, 10] and ahead == 6


def test_a_prompt_of_text_is_left_alone():
    positions, ahead = before_choice(4, [])
    assert positions[0].tolist() == [0, 1, 2, 3] and ahead == 0
    same, still = after_choice(positions, torch.tensor([], dtype=torch.long), torch.zeros(0))
    assert torch.equal(same, positions) and still == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ranks_travel_unrounded(dtype):
    ranks = torch.tensor([0, 255, 256, 257, 575, 2879, 65000])
    rows, found = apart(with_ranks(torch.randn(7, 4).to(dtype), ranks))
    assert found.tolist() == ranks.tolist() and rows.shape == (7, 4) and rows.dtype == dtype


# -- what can be served --------------------------------------------------------------------------

def entry_spec(**changes: object) -> PluginSpec:
    return replace(PluginSpec([StageSpec(0, 0.5, "rcp", RCP_ARGUMENTS)]), **changes)


@pytest.mark.parametrize(
    "changes, lost",
    [
        ({"stages": [StageSpec(0, 0.5, "rcp", RCP_ARGUMENTS),
                     StageSpec(3, 0.2, "rcp", RCP_ARGUMENTS)]}, "stages inside.*layer 3"),
        ({"repair": RepairSpec([3, 5], "film", FILM_ARGUMENTS)}, "repair adapter at layers 3, 5"),
    ],
)
def test_more_than_the_entry_is_refused_unless_it_is_left_out_knowingly(changes, lost):
    plugin = Plugin.for_model(entry_spec(**changes), tiny_llava_model())
    with pytest.raises(UserError, match=f"{lost}.*entry_only"):
        entry_stage(plugin, False)
    entry = entry_stage(plugin, True)
    assert entry.schedule.layers == (0,) and entry.repair is None
    assert entry.pruner(0) is plugin.pruner(0) and not entry.training


def test_budgets_of_a_plugin_become_those_of_its_entry():
    stages = [StageSpec(0, 0.4, "rcp", RCP_ARGUMENTS), StageSpec(3, 0.2, "rcp", RCP_ARGUMENTS)]
    plugin = Plugin.for_model(entry_spec(stages=stages, budgets=[0.1, 0.5]), tiny_llava_model())
    low, high = entry_stage(plugin, True).spec.budgets
    assert low == pytest.approx(plugin.at_budget(0.1).schedule.ratios[0])
    assert high == pytest.approx(plugin.at_budget(0.5).schedule.ratios[0])


@pytest.mark.parametrize(
    "spec, reason",
    [
        (PluginSpec([StageSpec(1, 0.5, "uniform")]), "layers \\[1\\].*stage at layer 0"),
        (PluginSpec([]), "layers \\[\\]"),
        (entry_spec(selection="threshold"), "'threshold' keeps what its scores say"),
        (entry_spec(selection="calibrated", calibration=Calibration([0.5])),
         "'calibrated' keeps what its scores say"),
        (PluginSpec([StageSpec(0, 0.5, "todre_exit")]), "'todre_exit' may keep nothing"),
        (PluginSpec([StageSpec(0, 0.0, "uniform")]), "keeps 0 visual tokens"),
        (PluginSpec([StageSpec(0, 0.5, "oracle")]), "'oracle' needs a forward of the whole"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(spec, reason):
    plugin = Plugin.for_model(spec, tiny_llava_model())
    with pytest.raises(UserError, match=reason):
        entry_stage(plugin, True)


# -- how the engine is started -------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    save_plugin(plugin_of(tiny_llava_model(), "divprune"), tmp_path / "plugin")
    return str(tmp_path / "plugin")


def test_the_engine_is_told_all_of_it(folder):
    arguments = engine_arguments(Settings(folder, budget=8), "LlavaForConditionalGeneration")
    assert arguments == {
        "hf_overrides": {
            "architectures": ["RcpLlavaForConditionalGeneration"],
            "rcp": {"plugin": folder, "budget": 8},
            "mrope_section": [1, 1, 1],
        },
        "video_pruning_rate": 0.5,
    }
    words = serve_command("model", arguments, ["--port", "8000"])
    assert words[:4] == ["serve", "model", "--trust-request-mm-kwargs", "--hf-overrides"]
    assert json.loads(words[4]) == arguments["hf_overrides"] and words[-2:] == ["--port", "8000"]
    config = type("Config", (), {"rcp": arguments["hf_overrides"]["rcp"]})
    assert Settings.of(config) == Settings(folder, budget=8)


def test_a_repacked_plugin_needs_no_positions(tmp_path):
    plugin = plugin_of(tiny_llava_model(), "divprune", position_policy="repack")
    save_plugin(plugin, tmp_path / "plugin")
    arguments = engine_arguments(
        Settings(str(tmp_path / "plugin")), "LlavaForConditionalGeneration"
    )
    assert set(arguments) == {"hf_overrides"}
    assert "mrope_section" not in arguments["hf_overrides"]


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (3, 8), (8, 8), (9, 16)])
def test_adapters_are_handed_over(tmp_path, rank, room):
    """As the folder has them, for every prompt with an image; the engine knows certain ranks."""
    plugin = plugin_of(tiny_llava_model(), "divprune", lora=LoraSpec(rank=rank))
    folder = tmp_path / "plugin"
    save_plugin(plugin, folder)
    arguments = engine_arguments(Settings(str(folder)), "LlavaForConditionalGeneration")
    assert arguments["enable_lora"] is True and arguments["max_lora_rank"] == room
    assert arguments["default_mm_loras"] == {"image": str(folder / "lora")}
    words = serve_command("model", arguments, [])
    assert words[words.index("--enable-lora") + 1].startswith("--")
    assert json.loads(words[words.index("--default-mm-loras") + 1]) == {
        "image": str(folder / "lora")
    }


def test_adapters_that_cannot_be_handed_over_are_refused(tmp_path):
    model = tiny_llava_model()
    save_plugin(plugin_of(model, "divprune", lora=LoraSpec(rank=513)), tmp_path / "wide")
    with pytest.raises(UserError, match="rank 513.*512 at most"):
        engine_arguments(Settings(str(tmp_path / "wide")), "LlavaForConditionalGeneration")
    save_plugin(plugin_of(model, "divprune", lora=LoraSpec(rank=2)), tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "lora")
    with pytest.raises(UserError, match="lora' is not there.*[Ee]xport"):
        engine_arguments(Settings(str(tmp_path / "part")), "LlavaForConditionalGeneration")


def test_settings_that_are_not_there_or_other_are_refused(folder):
    with pytest.raises(UserError, match="no field 'rcp'.*rcp serve"):
        Settings.of(type("Config", (), {}))
    with pytest.raises(UserError, match="Settings has no place for the field 'hash'"):
        Settings.of(type("Config", (), {"rcp": {"plugin": folder, "hash": False}}))
    with pytest.raises(UserError, match="GemmaForCausalLM is not served"):
        engine_arguments(Settings(folder), "GemmaForCausalLM")


def test_the_fingerprint_is_of_what_the_folder_holds(tmp_path):
    for name, seed in (("one", 1), ("two", 2), ("three", 1)):
        plugin = randomised(plugin_of(tiny_llava_model()), seed)
        save_plugin(plugin, tmp_path / name)
    one, two, three = (
        Settings(str(tmp_path / name)).fingerprint() for name in ("one", "two", "three")
    )
    assert one == three != two


# -- the model's side ----------------------------------------------------------------------------

def pruned(folder, **settings: object):
    """What a model of an engine inherits, over one that stands in for it."""
    model = PrunedModel()
    backbone = FusedDecoder(EngineModel(tiny_llava_model()))
    model.pruning = Pruning(backbone, Settings(folder, **settings), IMAGE)
    model.full_tokens = lambda feature: TOKENS
    return model


def test_a_base_with_other_weights_is_refused(tmp_path):
    host = tiny_llava_model()
    save_plugin(Plugin.for_model(entry_spec(), host), tmp_path / "plugin")
    pruning = Pruning(FusedDecoder(EngineModel(host)), Settings(str(tmp_path / "plugin")), IMAGE)
    pruning.check_base()
    host.model.language_model.layers[2].input_layernorm.weight.mul_(1.02)
    with pytest.raises(UserError, match=r"layers.2.input_layernorm.weight values differ by 2.0%"):
        pruning.check_base()


def feature(offset: int, length: int) -> SimpleNamespace:
    return SimpleNamespace(mm_position=SimpleNamespace(offset=offset, length=length))


def test_budgets_are_mixed_and_pruning_switched_off(folder):
    pruning = pruned(folder).pruning
    features = torch.randn(TOKENS, 48)
    for asked, count in ((None, 4), (9, 9), (0.5, 8), (ALL, TOKENS)):
        key = key_of(pruning.entry, visual_budget=asked) if asked else key_of(pruning.entry)
        rows, ranks = apart(pruning.left_of(features, key, {}))
        assert len(ranks) == count == key.count(TOKENS)
        assert torch.equal(rows, features[ranks]) and torch.equal(ranks, ranks.sort().values)


def test_positions_are_corrected_by_what_the_rows_carry(folder):
    model = pruned(folder)
    ids = [1, IMAGE, IMAGE, 7, IMAGE, IMAGE, 8]
    # the runner hands features over in any order
    positions, ahead = model.get_mrope_input_positions(ids, [feature(4, 2), feature(1, 2)])
    assert ahead == 2 * (TOKENS - 2)
    first = with_ranks(torch.ones(2, 48), torch.tensor([3, 9]))
    rows, positions, _ = model.recompute_mrope_positions(ids, [first], positions, 0)
    assert rows[0].shape == (2, 48)
    second = with_ranks(torch.ones(1, 48), torch.tensor([15]))  # the last part of the other image
    _, positions, again = model.recompute_mrope_positions(ids, [second], positions, 5)
    assert positions[0].tolist() == [0, 4, 10, 17, 18, 33, 34] and again == ahead
    nothing, same, _ = model.recompute_mrope_positions(ids, [], positions, 7)
    assert nothing == [] and torch.equal(same, positions)


def engine_config(
    folder, mrope=True, pruning=True, tensor=1, pipeline=1, rope_type="default"
):
    text = SimpleNamespace(rope_parameters={"rope_type": rope_type}, max_position_embeddings=512)
    multimodal = SimpleNamespace(is_multimodal_pruning_enabled=lambda: pruning)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(
            tensor_parallel_size=tensor, pipeline_parallel_size=pipeline
        ),
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(rcp={"plugin": folder}, text_config=text),
            multimodal_config=multimodal,
            uses_mrope=mrope,
            max_model_len=400,
        ),
    )


def test_the_rotary_table_has_room_for_positions_that_are_gone(folder):
    config = engine_config(folder)
    PrunedModel.refuse_engine(config)
    assert config.model_config.hf_config.text_config.max_position_embeddings == 800


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"tensor": 2}, "tensor or pipeline parallelism.*one device"),
        ({"pipeline": 2}, "tensor or pipeline parallelism"),
        ({"mrope": False, "pruning": False}, "with none of.*this plug-in's is 'keep'"),
        ({"mrope": False}, "with --video-pruning-rate of.*this plug-in's is 'keep'"),
        ({"pruning": False}, "with mrope_section of.*this plug-in's is 'keep'"),
        ({"rope_type": "dynamic"}, "rope_type 'dynamic'.*'repack'"),
    ],
)
def test_an_engine_that_cannot_prune_is_refused(folder, changes, reason):
    with pytest.raises(UserError, match=reason):
        PrunedModel.refuse_engine(engine_config(folder, **changes))


def test_a_repacked_plugin_is_not_asked_for_positions(tmp_path):
    plugin = plugin_of(tiny_llava_model(), "divprune", position_policy="repack")
    save_plugin(plugin, tmp_path / "plugin")
    config = engine_config(str(tmp_path / "plugin"), mrope=False, pruning=False)
    PrunedModel.refuse_engine(config)
    assert config.model_config.hf_config.text_config.max_position_embeddings == 512
    for mrope, pruning in ((True, False), (False, True), (True, True)):
        with pytest.raises(UserError, match="this plug-in's is 'repack'"):
            PrunedModel.refuse_engine(engine_config(str(tmp_path / "plugin"), mrope, pruning))


# -- rcp serve -----------------------------------------------------------------------------------

def test_serve_prints_the_command_it_would_start(folder, tmp_path, capsys):
    tiny_llava_model().config.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["architectures"] = ["LlavaForConditionalGeneration"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    given = ["serve", folder, "--base", str(tmp_path / "base"), "--budget", "8", "--dry-run"]
    assert main([*given, "--port", "8001"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["vllm", "serve", str(tmp_path / "base")] and words[-1] == "8001"
    overrides = json.loads(words[words.index("--hf-overrides") + 1])
    assert overrides["rcp"] == {"plugin": folder, "budget": 8}


@pytest.mark.parametrize(
    "given, reason",
    [
        (["--base", "nowhere"], "'nowhere'.*--base"),
        (["--base", "data/tiny-vlm", "--budget", "many"], "visual_budget is 'many'"),
        (["--base", "data/tiny-vlm", "--budget", "200"], "budget of 200"),
    ],
)
def test_what_cannot_be_started_is_refused_before(folder, capsys, given, reason):
    assert main(["serve", folder, "--dry-run", *given]) == 2
    assert re.search(reason, capsys.readouterr().err)


def test_no_engine_is_imported_before_it_is_asked_for():
    """Not even where one is installed."""
    for name in ("rcp.serving.vllm", "rcp.serving.vllm.pruned", "rcp.commands.serve"):
        code = f"import sys, {name}; print('vllm' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "False", done.stderr
