"""What every repair must show, found by its being registered, and the formulas of each."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import rcp
from rcp.attaching.encoder_watch import carried, watching
from rcp.backbones import backbone_for
from rcp.backbones.tower import Tower
from rcp.plugin import Plugin, PluginSpec, RepairSpec
from rcp.repair import REPAIRS
from rcp.repair.adapter import Bottleneck
from rcp.repair.base import Beside, Dropping
from rcp.repair.film import FilmRepair
from rcp.repair.memory import CAP, MemoryRepair
from rcp.repair.vision_remember import VisionRemember
from tests.decoding import family
from tests.tiny import FILM_ARGUMENTS, randomised, rcp_spec, row_of, text_rows, tiny_inputs

PARITY = 1e-5
ARGUMENTS = {
    "film": FILM_ARGUMENTS,
    "film without context": {**FILM_ARGUMENTS, "context": False},
    "adapter": {"inner": 8},
    "memory": {"slots": 3, "width": 8},
    "vision_remember": {"side": 2, "width": 8},
}
IMAGES = (1, 2, 0, 1)


def test_every_repair_is_tried():
    assert {name.split()[0] for name in ARGUMENTS} == set(REPAIRS.names())


def repaired(model: nn.Module, name: str, rows: str, fresh: bool = False) -> Plugin:
    repair = RepairSpec([2, 3, 5], name.split()[0], ARGUMENTS[name], rows)
    spec = PluginSpec(rcp_spec(layers=(1, 3)).stages, repair)
    plugin = Plugin.for_model(spec, model)
    return plugin if fresh else randomised(plugin)


def inputs_of() -> dict[str, Tensor]:
    return tiny_inputs(questions=(5, 9, 6, 7), images=IMAGES)


def run(model, plugin: Plugin, inputs, mode: str = "drop") -> Tensor:
    with rcp.attach(model, plugin, mode), torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("rows", ["answer", "text"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_dropping_is_masking_and_the_repair_is_felt(tiny_llava, name, rows):
    plugin, inputs = repaired(tiny_llava, name, rows), inputs_of()
    drop, soft = (run(tiny_llava, plugin, inputs, mode) for mode in ("drop", "soft"))
    assert (drop - soft)[text_rows(inputs)].abs().max() < PARITY
    bare = randomised(Plugin.for_model(PluginSpec(plugin.spec.stages), tiny_llava))
    bare.pruners = plugin.pruners
    without = run(tiny_llava, bare, inputs)
    assert (drop - without)[[0, 1, 3], -1].abs().amax(1).min() > 1e-3
    assert torch.equal(drop[2], without[2]), "a sample without an image lost nothing"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_row_is_by_itself(tiny_llava, name):
    plugin, inputs = repaired(tiny_llava, name, "text"), inputs_of()
    together = run(tiny_llava, plugin, inputs)
    for row in range(len(IMAGES)):
        alone = run(tiny_llava, plugin, row_of(inputs, row, IMAGES))
        assert (alone[0, -1] - together[row, -1]).abs().max() < PARITY


@pytest.mark.parametrize("rows", ["answer", "text"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_decodes_as_it_masks(tiny_llava, name, rows):
    """What was remembered at the prefill is there at every later step."""
    plugin, inputs = repaired(tiny_llava, name, rows), inputs_of()
    length, said = inputs["input_ids"].shape[1], {}
    for mode, cached in (("drop", True), ("soft", False)):
        with rcp.attach(tiny_llava, plugin, mode) as handle, handle.prompt(length):
            said[mode] = tiny_llava.generate(
                **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=cached,
                pad_token_id=0,
            )
    assert torch.equal(said["drop"], said["soft"])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_fresh_one_changes_nothing_bit_for_bit(tiny_llava, name):
    plugin, inputs = repaired(tiny_llava, name, "text", fresh=True), inputs_of()
    bare = Plugin.for_model(PluginSpec(plugin.spec.stages), tiny_llava)
    bare.pruners = plugin.pruners
    assert torch.equal(run(tiny_llava, plugin, inputs), run(tiny_llava, bare, inputs))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_weight_learns_once_the_last_one_has(tiny_llava, name):
    plugin = repaired(tiny_llava, name, "text").train()
    with rcp.attach(tiny_llava, plugin, "soft", relaxation=rcp.Relaxation()):
        tiny_llava(**inputs_of()).logits.square().mean().backward()
    assert plugin.repair is not None
    still = [n for n, weight in plugin.repair.named_parameters()
             if weight.grad is None or not weight.grad.any()]
    assert not still


@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_is_saved_and_read_back(tiny_llava, name, tmp_path):
    plugin, inputs = repaired(tiny_llava, name, "text"), inputs_of()
    rcp.save_plugin(plugin, tmp_path / "plugin")
    again = rcp.load_plugin(tmp_path / "plugin")
    assert again.spec == plugin.spec
    assert torch.equal(run(tiny_llava, plugin, inputs), run(tiny_llava, again, inputs))


@pytest.mark.parametrize(
    ("name", "size"),
    [("adapter", "inner"), ("memory", "slots"), ("memory", "width"),
     *(("vision_remember", size) for size in ("features", "side", "width"))],
)
def test_a_size_below_one_is_refused_by_name(name, size):
    sizes = {"features": 4} if name == "vision_remember" else {}
    with pytest.raises(ValueError, match=f"{size} is 0"):
        REPAIRS.get(name)(4, [1], **{**sizes, size: 0})


# -- formulas --------------------------------------------------------------------------------------


def random(module: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module.requires_grad_(False)


def test_a_bottleneck_is_what_its_formula_says():
    layer = random(Bottleneck(3, 2))
    hidden = torch.randn(2, 2, 3)
    for sample, row in ((0, 0), (1, 1)):
        values = hidden[sample, row]
        inner = [float(w @ values + b) for w, b in zip(layer.down.weight, layer.down.bias)]
        features = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in inner]
        wanted = [
            sum(float(w) * f for w, f in zip(weights, features)) + float(b)
            for weights, b in zip(layer.up.weight, layer.up.bias)
        ]
        assert layer(hidden)[sample, row].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_film_without_context_has_none_of_its_weights():
    film = FilmRepair(4, [1], **ARGUMENTS["film without context"])
    assert not film.remembers and not any("context" in name for name, _ in film.named_parameters())
    hidden, nothing = torch.randn(2, 3, 4), torch.zeros(2, 0)
    whole = random(film).films["1"]
    zero = torch.zeros(2, FILM_ARGUMENTS["inner"])
    torch.testing.assert_close(film(1, hidden, nothing), whole(hidden, zero))


def memory_by_hand(repair: MemoryRepair, rows: Tensor, gone: Tensor) -> list[list[float]]:
    """Each slot's weighted mean of the values of what is gone, token by token."""
    slots = []
    for query in repair.queries:
        total, mean = 0.0, [0.0] * repair.width
        for row, dropped in zip(rows, gone):
            if not dropped:
                continue
            logit = float(query @ (repair.keys.weight @ row)) / math.sqrt(repair.width)
            weight = math.exp(CAP * math.tanh(logit / CAP))
            value = (repair.values.weight @ row).tolist()
            total += weight
            mean = [m + weight * v for m, v in zip(mean, value)]
        slots.append([m / total if total else 0.0 for m in mean])
    return slots


def dropping(sums: Tensor) -> Dropping:
    none = torch.zeros(len(sums), 1, dtype=torch.bool)
    return Dropping(none, none, torch.zeros(len(sums), 1, 2), sums)


def test_a_memory_is_what_its_formula_says():
    repair = random(MemoryRepair(4, [1], slots=2, width=3))
    rows = torch.randn(2, 5, 4) * 3
    gone = torch.tensor([[True, False, True, True, False], [False] * 5])
    context = repair.remember(dropping(repair.summed(rows, gone)))
    for sample in range(2):
        wanted = sum(memory_by_hand(repair, rows[sample], gone[sample]), [])
        assert context[sample].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_memory_of_two_stages_is_that_of_all_they_dropped():
    repair = random(MemoryRepair(4, [1], slots=2, width=3))
    rows = torch.randn(1, 6, 4)
    first = torch.tensor([[True, True, False, False, False, False]])
    second = torch.tensor([[False, False, True, False, True, False]])
    both = repair.summed(rows, first) + repair.summed(rows, second)
    torch.testing.assert_close(both, repair.summed(rows, first | second))


def test_what_is_not_gone_may_be_anything():
    repair = random(MemoryRepair(4, [1], slots=2, width=3))
    rows, gone = torch.randn(1, 3, 4), torch.tensor([[True, False, True]])
    expected = repair.summed(rows, gone)
    rows[0, 1] = torch.nan
    assert torch.equal(repair.summed(rows, gone), expected)


def test_reading_a_memory_is_what_its_formula_says():
    repair = random(MemoryRepair(4, [1], slots=2, width=3))
    hidden, context = torch.randn(1, 1, 4), torch.randn(1, 6)
    reader = repair.readers["1"]
    asked = reader.read.weight @ hidden[0, 0] + reader.read.bias
    memory = context[0].reshape(2, 3)
    shares = [math.exp(float(asked @ slot) / math.sqrt(3)) for slot in memory]
    found = sum(share / sum(shares) * slot for share, slot in zip(shares, memory))
    wanted = (reader.up.weight @ found).tolist()
    assert repair(1, hidden, context)[0, 0].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_logits_of_any_size_stay_finite():
    repair = random(MemoryRepair(4, [1], slots=2, width=3))
    sums = repair.summed(torch.randn(1, 50, 4) * 1e4, torch.ones(1, 50, dtype=torch.bool))
    assert sums.isfinite().all() and repair.remember(dropping(sums)).isfinite().all()


# two windows a side: tokens 0 and 3 lie in the first, 1 in the last, 2 in the second, 4 in none
GRID = torch.tensor([[-0.5, -0.5], [0.5, 1.0], [-1.0, 0.0], [-0.01, -1.0], [math.nan, math.nan]])
WINDOWS = [0, 3, 1, 0, None]


def remembering(gone: list[bool]) -> tuple[VisionRemember, Tensor, Tensor]:
    """A repair, the features of five tokens, and the context it makes of those ``gone``."""
    repair = random(VisionRemember(4, [1], features=6, side=2, width=3))
    features = torch.randn(1, 5, 6)
    beside = Beside(GRID[None], {"encoder_levels": features})
    sums = repair.summed(torch.full((1, 5, 4), math.nan), torch.tensor([gone]), beside)
    return repair, features, repair.remember(dropping(sums))


def test_windows_hold_what_the_encoder_had_where_tokens_were_dropped():
    gone = [True, False, True, True, True]
    repair, features, context = remembering(gone)
    windows = context[0].reshape(4, 4).tolist()
    for window in range(4):
        inside = [n for n in range(5) if gone[n] and WINDOWS[n] == window]
        values = []
        for n in inside:
            row = features[0, n]
            centred = (row - row.mean()) / (row.var(correction=0) + repair.norm.eps).sqrt()
            values.append(repair.values.weight @ (centred * repair.norm.weight + repair.norm.bias))
        wanted = [0.0] * 3 if not inside else (sum(values) / len(inside)).tolist()
        assert windows[window][:3] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert windows[window][3] == bool(inside)


def test_rows_look_at_the_windows_that_lost_something():
    repair, _, context = remembering([True, False, True, False, False])
    hidden, reader = torch.randn(1, 1, 4), repair.readers["1"]
    asked = reader.read.weight @ hidden[0, 0] + reader.read.bias
    values = context[0].reshape(4, 4)[:, :3]
    keys = values + repair.places
    shares = [math.exp(float(asked @ keys[n]) / math.sqrt(3)) for n in (0, 1)]
    found = (shares[0] * values[0] + shares[1] * values[1]) / sum(shares)
    wanted = (math.tanh(float(reader.gate)) * (reader.up.weight @ found)).tolist()
    assert repair(1, hidden, context)[0, 0].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_where_nothing_was_dropped_nothing_is_remembered():
    repair, _, context = remembering([False] * 5)
    assert not context.any() and not repair(1, torch.randn(1, 2, 4), context).any()


@pytest.mark.parametrize(
    ("blocks", "projected", "levels"),
    [(24, -2, [13, 18, 23]), (24, -6, [13, 18, 19]), (4, -2, [2, 3]), (2, -1, [1]), (1, -1, [0])],
)
def test_levels_are_those_of_the_paper_and_none_is_behind_what_is_projected(
    blocks, projected, levels
):
    encoder = SimpleNamespace(encoder=SimpleNamespace(layers=[None] * blocks))
    config = SimpleNamespace(vision_feature_layer=projected)
    model = SimpleNamespace(base_model=SimpleNamespace(vision_tower=encoder), config=config)
    assert Tower(model, crops=True).levels == levels


def test_levels_are_what_enters_blocks_without_cls(tiny_llava):
    tower = backbone_for(tiny_llava).tower
    states = tiny_llava.model.vision_tower(
        tiny_inputs()["pixel_values"], output_hidden_states=True
    ).hidden_states
    with watching(tiny_llava, ["encoder_levels"]):
        found = tiny_llava.model.get_image_features(
            tiny_inputs()["pixel_values"], return_dict=True
        )
    wanted = torch.cat([states[level][:, 1:] for level in tower.levels], -1).flatten(0, 1)
    torch.testing.assert_close(carried({"image": found})["encoder_levels"], wanted)
    assert wanted.shape[1] == tower.level_features


def test_a_replayed_plan_repairs_alike(tiny_llava):
    plugin, inputs = repaired(tiny_llava, "vision_remember", "text"), inputs_of()
    with rcp.attach(tiny_llava, plugin, "drop") as handle, handle.trace() as trace, torch.no_grad():
        own = tiny_llava(**inputs).logits
    with rcp.attach(tiny_llava, plugin, "drop", plan=trace.plan), torch.no_grad():
        again = tiny_llava(**inputs).logits
    assert torch.equal(own, again)


def test_a_tower_of_another_width_and_a_model_without_one_are_refused(tiny_llava):
    spec = PluginSpec(
        rcp_spec(layers=(1,)).stages, RepairSpec([2], "vision_remember", {"features": 7})
    )
    with pytest.raises(rcp.UserError, match="features is 7, but the encoder .* Leave it out"):
        Plugin.for_model(spec, tiny_llava)
    spec.repair.arguments = {}
    with pytest.raises(rcp.UserError, match="encoder_levels"):
        Plugin.for_model(spec, family("qwen2_5_vl").model)
