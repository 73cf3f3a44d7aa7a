"""What every repair must show, found by its being registered, and the formulas of each."""

import math

import pytest
import torch
from torch import Tensor, nn

import rcp
from rcp.plugin import Plugin, PluginSpec, RepairSpec
from rcp.repair import REPAIRS
from rcp.repair.adapter import Bottleneck
from rcp.repair.base import Dropping
from rcp.repair.film import FilmRepair
from rcp.repair.memory import CAP, MemoryRepair
from tests.tiny import FILM_ARGUMENTS, randomised, rcp_spec, row_of, text_rows, tiny_inputs

PARITY = 1e-5
ARGUMENTS = {
    "film": FILM_ARGUMENTS,
    "film without context": {**FILM_ARGUMENTS, "context": False},
    "adapter": {"inner": 8},
    "memory": {"slots": 3, "width": 8},
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
    ("name", "size"), [("adapter", "inner"), ("memory", "slots"), ("memory", "width")]
)
def test_a_size_below_one_is_refused_by_name(name, size):
    with pytest.raises(ValueError, match=f"{size} is 0"):
        REPAIRS.get(name)(4, [1], **{size: 0})


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
