"""What a plug-in refuses, adds and writes down, by value."""

import json
import stat

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rcp
from rcp import LoraSpec, Plugin, PluginSpec, RepairSpec, StageSpec
from rcp.plugin.lora import Lora, LowRank
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, randomised, rcp_spec

WIDTH, DEPTH = 8, 6


def stages(*places: tuple[int, float]) -> list[StageSpec]:
    return [StageSpec(at, ratio, "rcp", RCP_ARGUMENTS) for at, ratio in places]


def made(*places: tuple[int, float], repair: list[int] | None = None, **changes) -> Plugin:
    adapter = None if repair is None else RepairSpec(repair, "film", FILM_ARGUMENTS)
    return Plugin(PluginSpec(stages(*places), adapter, **changes), WIDTH, DEPTH)


TWO = ((1, 0.5), (3, 0.2))


@pytest.mark.parametrize(
    "places, changes, message",
    [
        (TWO, {"position_policy": "close"}, "position_policy is 'close'.*'keep' or 'repack'"),
        (TWO, {"selection": "top"}, "selection is 'top'.*'top_k' or 'threshold'"),
        (TWO, {"position_policy": "repack"}, r"the stages here are at \[1, 3\]"),
        ((), {"position_policy": "repack"}, "must be at layer 0"),
        ((), {"repair": [3]}, "nothing to repair"),
        (TWO, {"repair": []}, "without layers repairs nothing"),
        (TWO, {"repair": [3, 4, 3]}, "names a layer twice"),
        (TWO, {"repair": [0]}, "Repair layer 0 .* 1 to 5"),
        (TWO, {"repair": [3, 6]}, "Repair layer 6 .* 1 to 5"),
        ((), {"budgets": [0.3, 0.5]}, "no budgets to choose from"),
        (TWO, {"budgets": [0.5, 0.5]}, "the lower first"),
        (TWO, {"budgets": [0.0, 0.5]}, "both above 0"),
        (TWO, {"budgets": [0.3, 1.01]}, "at most 1"),
        (TWO, {"budgets": [0.3, 0.4, 0.5]}, "give two shares"),
        (TWO, {"budgets": [0.44, 0.8]}, "is not what"),
        (TWO, {"budgets": [0.2, 0.43]}, "is not what"),
    ],
)
def test_what_cannot_be_is_refused(places, changes, message: str):
    with pytest.raises(rcp.UserError, match=message):
        made(*places, **changes)


@pytest.mark.parametrize("sizes, named", [((0, 6), "hidden_size"), ((8, 0), "num_layers")])
def test_a_decoder_has_a_width_and_a_depth(sizes, named: str):
    with pytest.raises(rcp.UserError, match=f"{named} is 0"):
        Plugin(PluginSpec([]), *sizes)
    assert Plugin(PluginSpec([]), 1, 1).mean_ratio == 1.0


def test_what_just_fits_is_made():
    plugin = made(*TWO, repair=[1, 5], budgets=[0.3, 1.0])
    assert plugin.repair.layers == (1, 5) and plugin.hidden_size == WIDTH
    assert plugin.base is None and plugin.training_summary == {} and plugin.lora is None
    assert made((0, 0.5), position_policy="repack").schedule.layers == (0,)
    assert plugin.pruner(1) is plugin.pruners["1"]


def test_a_budget_may_be_written_with_few_digits():
    plugin = made(*TWO)  # (1 + 2 * 0.5 + 3 * 0.2) / 6 = 0.4333...
    assert plugin.mean_ratio == pytest.approx(2.6 / 6)
    for written in (0.4333, 0.434, 0.4315):
        assert plugin.at_budget(written) is plugin
    for written in (0.43, 0.436):
        with pytest.raises(rcp.UserError, match="the one budget of 43.33%"):
            plugin.at_budget(written)


def test_a_chosen_budget_shares_the_weights_and_changes_the_schedule():
    plugin = made(*TWO, budgets=[0.3, 0.8])
    other = plugin.at_budget(0.6)
    left = (0.6 * 6 - 1) / (2 + 3 * 0.4)  # of six layers one keeps all; the shares fall by 0.4
    assert other.schedule.ratios == pytest.approx((left, left * 0.4))
    assert [stage.ratio for stage in other.spec.stages] == list(other.schedule.ratios)
    assert other.pruner(1) is plugin.pruner(1)
    assert plugin.schedule.ratios == (0.5, 0.2)
    assert [stage.ratio for stage in plugin.spec.stages] == [0.5, 0.2]
    ends = [plugin.at_budget(end).mean_ratio for end in (0.3, 0.8)]
    assert ends == pytest.approx([0.3, 0.8])


def test_methods_for_layer_zero_and_for_thresholds():
    with pytest.raises(rcp.UserError, match="'fastv' reads what the layer before"):
        Plugin(PluginSpec([StageSpec(0, 0.5, "fastv")]), WIDTH, DEPTH)
    Plugin(PluginSpec([StageSpec(0, 0.5, "random"), StageSpec(1, 0.5, "fastv")]), WIDTH, DEPTH)
    mixed = [*stages((0, 0.5)), StageSpec(2, 0.5, "uniform")]
    with pytest.raises(rcp.UserError, match="'uniform' at layer 2 has no learned zero.*rcp"):
        Plugin(PluginSpec(mixed, selection="threshold"), WIDTH, DEPTH)
    assert made((0, 0.5), selection="threshold").spec.selection == "threshold"


def test_arguments_that_a_method_does_not_take_are_told():
    spec = PluginSpec([StageSpec(0, 0.5, "rcp", {"inner": 15, "heads": 2})])
    with pytest.raises(rcp.UserError, match="'rcp' does not take the arguments .*15.*does not div"):
        Plugin(spec, WIDTH, DEPTH)


# -- low-rank adapters ---------------------------------------------------------------------------


def test_an_adapter_is_two_products_and_a_scale():
    pair = LowRank(3, 2, 2, alpha=3.0)
    assert pair.scale == 1.5 and not pair(torch.randn(4, 3)).any()
    pair.down.weight.data = torch.tensor([[1.0, 0, 2], [0, 1, 0]])
    pair.up.weight.data = torch.tensor([[1.0, 1], [2, 0]])
    # down: (7, 2); up: (9, 14)
    assert pair(torch.tensor([[1.0, 2, 3]])).tolist() == [[13.5, 21.0]]
    assert pair.down.bias is None and pair.up.bias is None
    assert pair(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"q_proj": nn.Linear(4, 6), "o_proj": nn.Linear(6, 4)})
        self.norm = nn.LayerNorm(4)


LAYERS = nn.ModuleList([Layer(), Layer()])


def test_adapters_find_their_modules_and_sizes():
    chosen = LoraSpec(targets=["q_proj", "o_proj"], layers=[1]).for_layers(LAYERS, "decoder")
    assert chosen.modules == {
        "decoder.1.attention.q_proj": [4, 6], "decoder.1.attention.o_proj": [6, 4]
    }
    everywhere = LoraSpec(targets=["o_proj"]).for_layers(LAYERS, "decoder")
    assert list(everywhere.modules) == ["decoder.0.attention.o_proj", "decoder.1.attention.o_proj"]
    for layer in (-1, 2):
        with pytest.raises(rcp.UserError, match=f"layer {layer}, .* 2 layers: 0 to 1 are"):
            LoraSpec(layers=[layer]).for_layers(LAYERS, "decoder")
    with pytest.raises(rcp.UserError, match="'norm', but decoder layer 0 .* o_proj, q_proj"):
        LoraSpec(targets=["norm"]).for_layers(LAYERS, "decoder")
    plain = LoraSpec()
    assert (plain.rank, plain.alpha, plain.targets) == (8, 16.0, ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": float("inf")}, "alpha is 'inf'"),
        ({"modules": {}}, "name no modules"),
        ({"modules": {"a.b": [4]}}, r"'a.b' the sizes \[4\]"),
        ({"modules": {"a.b": [4, 0]}}, r"'a.b' the sizes \[4, 0\]"),
        ({"modules": {"": [4, 4]}}, r"'' the sizes \[4, 4\]"),
        ({"modules": {"a.b": [4, 4.5]}}, r"'a.b' with the sizes \[4, 4.5\] cannot be made"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes, message: str):
    spec = LoraSpec(**{"rank": 1, "modules": {"a.b": [1, 1]}} | changes)
    with pytest.raises(rcp.UserError, match=message):
        Lora(spec)


def test_the_smallest_adapter_and_its_names_for_peft():
    lora = Lora(LoraSpec(rank=1, modules={"a.b": [3, 2]}))
    assert {name: tuple(value.shape) for name, value in lora.peft_tensors().items()} == {
        "base_model.model.a.b.lora_A.weight": (1, 3), "base_model.model.a.b.lora_B.weight": (2, 1)
    }
    assert not any(value.requires_grad for value in lora.peft_tensors().values())


# -- what is written -----------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_llava, tmp_path):
    spec = rcp_spec()
    spec.lora = LoraSpec(rank=2, alpha=6.0, targets=["v_proj", "q_proj"], layers=[0, 3])
    plugin = randomised(Plugin.for_model(spec, tiny_llava))
    plugin.training_summary = {"steps": 3}
    rcp.save_plugin(plugin, tmp_path / "new" / "plugin")
    return tmp_path / "new" / "plugin"


def test_a_description_says_what_is_kept_and_what_it_was_made_with(folder):
    description = json.loads((folder / "plugin.json").read_text())
    assert description["format_version"] == 1
    assert description["budget"]["mean_ratio"] == pytest.approx(2.6 / 6)
    assert description["budget"]["final_ratio"] == 0.2
    assert description["versions"]["torch"] == torch.__version__
    assert (description["hidden_size"], description["num_layers"]) == (48, 6)
    assert description["training"] == {"steps": 3}
    assert (folder / "plugin.json").read_text().startswith('{\n  "format_version"')


def test_the_folder_is_readable_for_all_and_nothing_is_left_beside_it(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.parent.iterdir()] == ["plugin"]


def test_a_card_tells_a_stranger(folder):
    card = (folder / "README.md").read_text()
    assert "| 1 | 50.00% | rcp |\n| 3 | 20.00% | rcp |" in card
    assert "43.33% of the visual" in card and "width 48,\n6 decoder layers" in card
    assert "`film` at layers [3, 5]" in card and "rank 2 on v_proj, q_proj, in `lora/` also" in card
    assert '"steps": 3' in card


def test_a_card_of_a_plain_plugin_for_any_model(tmp_path):
    rcp.save_plugin(Plugin(PluginSpec([]), WIDTH, DEPTH), tmp_path / "plain")
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "any model of these sizes" in card and "100.00% of the visual" in card
    assert "repair: none" in card and "adapters: none." in card and "lora/" not in card
    description = json.loads((tmp_path / "plain" / "plugin.json").read_text())
    assert description["base"] is None and description["budget"]["final_ratio"] == 1.0


def test_the_adapters_are_a_folder_that_peft_reads(folder):
    config = json.loads((folder / "lora" / "adapter_config.json").read_text())
    prefix = "model.language_model.layers"
    assert config == {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": "",
        "inference_mode": True,
        "r": 2,
        "lora_alpha": 6.0,
        "target_modules": sorted(
            f"{prefix}.{at}.self_attn.{name}" for at in (0, 3) for name in ("q_proj", "v_proj")
        ),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    tensors = load_file(folder / "lora" / "adapter_model.safetensors")
    ours = load_file(folder / "plugin.safetensors")
    name = f"{prefix}.3.self_attn.q_proj"
    assert torch.equal(
        tensors[f"base_model.model.{name}.lora_A.weight"],
        ours[f"lora.pairs.{name.replace('.', '/')}.down.weight"],
    )
