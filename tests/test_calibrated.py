"""Budgets by sample: what a cut keeps, and that calibrated cuts keep the mean of fixed counts."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlavaForConditionalGeneration

import rcp
from rcp.__main__ import main
from rcp.choosing.calibrated import Calibration, Cut, bounds, by_sample, gaps
from rcp.errors import UserError
from rcp.evaluation.studies.calibration import calibrated, mean_gap
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.pruners import PRUNERS, Pruner
from tests.tiny import (
    attention_spec,
    randomised,
    rcp_spec,
    reference_plugin,
    row_of,
    text_rows,
    tiny_inputs,
)

pytest_plugins = ["tests.training_fixtures"]

PARITY = 1e-5
FREE = Cut(gap=1.0, fewest=0.01, most=100.0)


def marks(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


# -- what a cut keeps ------------------------------------------------------------------------------


def test_what_lies_within_the_gap_stays():
    """A row is measured by its own best token, among those that are there."""
    scores = torch.tensor([[5.0, 4.0, 3.9, 9.0], [0.0, -1.0, -1.01, 1e9], [2.0, 2.0, 2.0, 2.0]])
    alive = marks(["xxx.", "xxx.", "xxxx"])
    kept = by_sample(scores, alive, torch.tensor([2, 2, 2]), FREE)
    assert torch.equal(kept, marks(["xx..", "xx..", "xxxx"]))
    assert gaps(scores, alive)[0].tolist() == pytest.approx([0.0, 1.0, 1.1, torch.inf])


def test_a_row_keeps_no_fewer_and_no_more_than_its_bounds():
    scores = torch.tensor([[9.0, 5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    cut = Cut(gap=0.5, fewest=0.5, most=1.25)
    kept = by_sample(scores, torch.ones(2, 6, dtype=torch.bool), torch.tensor([4, 4]), cut)
    assert torch.equal(kept, marks(["xx....", "xxxxx."])), "half of four, and a quarter more"


def test_bounds_by_hand():
    least, largest = bounds(torch.tensor([0, 1, 3, 10]), Cut(0.0, 0.25, 2.5))
    assert least.tolist() == [0, 1, 1, 3] and largest.tolist() == [0, 2, 7, 25]


def test_a_score_that_is_no_number_lies_below_all_others():
    scores = torch.tensor([[torch.nan, 1.0, 0.5], [torch.nan, torch.nan, torch.nan]])
    kept = by_sample(scores, torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 1]), FREE)
    assert kept[0].tolist() == [False, True, True] and kept[1].any()


# -- the gap that keeps the mean -------------------------------------------------------------------


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12
    ),
    fewest=st.sampled_from([0.05, 0.25, 1.0]),
    most=st.sampled_from([1.0, 2.0, 40.0]),
    seed=st.integers(0, 999),
)
def test_the_sum_is_that_of_fixed_counts(rows, fewest, most, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(tokens, generator=generator) for tokens, _ in rows]
    counts = [min(count, tokens) for tokens, count in rows]
    found = [gaps(one[None], torch.ones(1, len(one), dtype=torch.bool))[0] for one in scores]
    seen = [(gap.double().sort().values, count) for gap, count in zip(found, counts)]
    cut = Cut(mean_gap(seen, Cut(0.0, fewest, most)), fewest, most)
    kept = [
        int(by_sample(one[None], torch.ones(1, len(one), dtype=torch.bool),
                      torch.tensor([count]), cut).sum())
        for one, count in zip(scores, counts)
    ]
    # the first token of every row lies at 0: no gap parts them
    least = sum(max(1, int(bounds(torch.tensor(count), cut)[0])) for count in counts)
    assert sum(kept) == max(sum(counts), least)


def test_of_two_sums_the_nearer_is_taken():
    """Three tokens tie: the gap keeps one token or four, and two are wanted."""
    rising = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    free = Cut(0.0, 0.01, 100.0)
    assert mean_gap([(rising, 2)], free) == 0.5
    assert mean_gap([(rising, 3)], free) == 2.0


# -- plug-ins --------------------------------------------------------------------------------------


def batch_of(inputs: dict[str, torch.Tensor]) -> dict[str, object]:
    return {"inputs": inputs, "labels": inputs["input_ids"]}


def ragged() -> dict[str, torch.Tensor]:
    return tiny_inputs(questions=(5, 9, 6, 7), images=(1, 2, 1, 0))


def kept_of(model, plugin: Plugin, inputs, mode: str = "drop") -> tuple[torch.Tensor, torch.Tensor]:
    with rcp.attach(model, plugin, mode) as handle, handle.trace() as trace, torch.no_grad():
        logits = model(**inputs).logits
    return trace.plan.kept, logits


@pytest.mark.parametrize("layers", [(0,), (1, 3), (0, 1, 3)])
@pytest.mark.parametrize("name", ["rcp", "attention"])
def test_the_mean_is_that_of_fixed_counts_at_every_stage(tiny_llava, name, layers):
    ratios = (0.5, 0.3, 0.2)[: len(layers)]
    if name == "rcp":
        plugin = reference_plugin(name, tiny_llava, layers=layers, ratios=ratios)
    else:
        plugin = Plugin.for_model(attention_spec(layers, ratios), tiny_llava)
    batches = [batch_of(tiny_inputs(questions=(n, 9), images=(1, 2))) for n in range(3, 7)]
    batches.append(batch_of(ragged()))
    found = calibrated(tiny_llava, plugin, batches, 0.25, 4.0)
    fixed, own = (
        torch.cat([kept_of(tiny_llava, one, batch["inputs"])[0] for batch in batches], 1)
        for one in (plugin, found)
    )
    assert torch.equal(fixed.sum(1), own.sum(1)) and not torch.equal(fixed, own)
    assert (own[:, fixed[0] > 0] >= 1).all() and (own[:, fixed[0] == 0] == 0).all()
    assert plugin.spec.selection == "top_k" and found.spec.calibration is not None


def test_dropping_is_masking_and_a_row_is_by_itself(tiny_llava):
    spec = rcp_spec()
    plugin = randomised(Plugin.for_model(spec, tiny_llava)).calibrated(Calibration([0.8, 0.5]))
    inputs = ragged()
    (kept, drop), (masked, soft) = (kept_of(tiny_llava, plugin, inputs, mode)
                                    for mode in ("drop", "soft"))
    assert torch.equal(kept, masked) and len(set(kept[0, :3].tolist())) > 1
    assert (drop - soft)[text_rows(inputs)].abs().max() < PARITY
    for row in range(3):
        alone, logits = kept_of(tiny_llava, plugin, row_of(inputs, row, (1, 2, 1, 0)))
        assert torch.equal(alone[:, 0], kept[:, row])
        assert (logits[0, -1] - drop[row, -1]).abs().max() < PARITY


@pytest.mark.parametrize("margin", [None, 1.0, 2.0])
@pytest.mark.parametrize("hard", [True, False])
def test_a_relaxation_keeps_the_same_tokens(tiny_llava, hard, margin):
    """Not those above zero: the level of scores tells nothing here."""
    plugin = randomised(Plugin.for_model(rcp_spec(), tiny_llava))
    for layer in plugin.schedule.layers:
        plugin.pruner(layer).bias.data.fill_(-50.0)
    plugin = plugin.calibrated(Calibration([0.8, 0.5])).eval()
    inputs = ragged()
    kept, drop = kept_of(tiny_llava, plugin, inputs)
    relaxation = rcp.Relaxation(temperature=0.5, hard=hard, margin=margin)
    with rcp.attach(tiny_llava, plugin, "soft", relaxation=relaxation) as handle:
        with handle.trace() as trace:
            logits = tiny_llava(**inputs).logits
    assert kept[:, :3].min() >= 1 and torch.equal(trace.plan.kept, kept)
    if hard:
        rows = text_rows(inputs)
        assert (logits - drop)[rows].abs().max() < PARITY
    logits[0, -1].square().sum().backward()
    gradient = plugin.pruner(plugin.schedule.layers[0]).bias.grad
    assert gradient is not None and gradient.abs() > 0
    plugin.zero_grad()


def test_it_decodes_as_it_masks(tiny_llava):
    plugin = randomised(Plugin.for_model(rcp_spec(), tiny_llava)).calibrated(
        Calibration([0.8, 0.5]))
    inputs = ragged()
    said = {}
    for mode, cached in (("drop", True), ("soft", False)):
        with rcp.attach(tiny_llava, plugin, mode) as handle:
            with handle.prompt(inputs["input_ids"].shape[1]):
                said[mode] = tiny_llava.generate(
                    **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False,
                    use_cache=cached, pad_token_id=0,
                )
    assert torch.equal(said["drop"], said["soft"])


@pytest.mark.parametrize("selection", ["threshold", "calibrated"])
def test_a_stage_that_keeps_nothing_needs_no_scores(tiny_llava, selection):
    stages = [*rcp_spec(layers=(1,), ratios=(0.5,)).stages, StageSpec(3, 0.0, "uniform")]
    calibration = Calibration([0.8, 0.0]) if selection == "calibrated" else None
    spec = PluginSpec(stages, selection=selection, calibration=calibration)
    plugin = randomised(Plugin.for_model(spec, tiny_llava))
    kept, _ = kept_of(tiny_llava, plugin, ragged())
    assert (kept[1] == 0).all() and kept[0].sum() > 0


def test_it_is_saved_and_read_back(tiny_llava, tmp_path):
    plugin = randomised(Plugin.for_model(rcp_spec(), tiny_llava)).calibrated(
        Calibration([0.8, 0.5], fewest=0.5, most=2.0))
    rcp.save_plugin(plugin, tmp_path / "plugin")
    again = rcp.load_plugin(tmp_path / "plugin")
    assert again.spec == plugin.spec and again.spec.calibration.most == 2.0
    inputs = ragged()
    assert torch.equal(*(kept_of(tiny_llava, one, inputs)[1] for one in (plugin, again)))


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"calibration": None}, "do not go together.*rcp calibrate"),
        ({"selection": "top_k"}, "do not go together"),
        ({"selection": "threshold"}, "do not go together"),
        ({"calibration": Calibration([0.1])}, "one number of at least 0 for each of the 2 stages"),
        ({"calibration": Calibration([0.1, -0.1])}, "at least 0"),
        ({"calibration": Calibration([0.1, float("nan")])}, "gaps is 'nan'"),
        ({"calibration": Calibration([0.1, 0.1], fewest=0.0)}, "fewest is 0.0"),
        ({"calibration": Calibration([0.1, 0.1], fewest=1.1)}, "fewest is 1.1"),
        ({"calibration": Calibration([0.1, 0.1], most=0.9)}, "most 0.9"),
        ({"budgets": [0.2, 0.6]}, "no budget can be chosen afterwards"),
    ],
)
def test_what_cannot_be_is_refused(changes, complaint):
    spec = {"selection": "calibrated", "calibration": Calibration([0.1, 0.1]), **changes}
    with pytest.raises(UserError, match=complaint):
        Plugin(PluginSpec(rcp_spec().stages, **spec), 48, 6)


@pytest.mark.parametrize("name", PRUNERS.names())
def test_only_what_ranks_by_scores_is_cut(name):
    """Refused when it is made, not in the middle of a forward."""
    pruner = PRUNERS.get(name)
    if pruner.wraps:
        pytest.skip("as the method around which it is")
    spec = PluginSpec([StageSpec(1, 0.5, name)], selection="calibrated",
                      calibration=Calibration([0.1]))
    if pruner.select is Pruner.select:
        assert Plugin(spec, 48, 6).pruner(1).ranks
    else:
        with pytest.raises(UserError, match="without scoring them one by one"):
            Plugin(spec, 48, 6)


@pytest.mark.parametrize("inner, ranks", [("question_attention", True), ("sparsevlm", False)])
def test_a_method_around_another_ranks_as_that_one_does(inner, ranks):
    pruner = PRUNERS.get("without_sinks")(48, method=inner)
    assert pruner.ranks is ranks
    assert not PRUNERS.get("reserve")(48, method="question_attention").ranks


@pytest.mark.parametrize("spec", [rcp_spec(), attention_spec()])
def test_its_budget_is_the_one_it_was_calibrated_for(tiny_llava, spec):
    plugin = Plugin.for_model(spec, tiny_llava).calibrated(Calibration([0.1, 0.1]))
    assert plugin.at_budget(plugin.mean_ratio) is plugin
    with pytest.raises(UserError, match="cuts of this plug-in are calibrated for"):
        plugin.at_budget(0.9 * plugin.mean_ratio)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (PluginSpec([]), "no stage"),
        (PluginSpec(rcp_spec().stages, selection="threshold"), "no fixed ones"),
        (PluginSpec(rcp_spec().stages, budgets=[0.2, 0.6]), "choose one with --budget"),
        (PluginSpec([StageSpec(1, 0.5, "uniform")]), "without scoring them one by one"),
    ],
)
def test_what_has_no_mean_to_keep_is_not_calibrated(tiny_llava, spec, complaint):
    plugin = Plugin.for_model(copy.deepcopy(spec), tiny_llava)
    with pytest.raises(UserError, match=complaint):
        calibrated(tiny_llava, plugin, [batch_of(ragged())], 0.25, 4.0)


def test_questions_without_images_tell_nothing(tiny_llava):
    plugin = Plugin.for_model(attention_spec(), tiny_llava)
    batch = batch_of(tiny_inputs(questions=(5, 9), images=(0, 0)))
    with pytest.raises(UserError, match="no image in these questions"):
        calibrated(tiny_llava, plugin, [batch], 0.25, 4.0)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(base_folder, conversations, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(base_folder)
    plugin = Plugin.for_model(attention_spec(layers=(0,), ratios=(0.4,)), model)
    plugin.base.name_or_path = str(base_folder)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    return ["calibrate", "--plugin", str(tmp_path / "plugin"), "--data", str(conversations),
            "--device", "cpu", "--batch-size", "3", "--output", str(tmp_path / "calibrated")]


def test_the_command_writes_the_same_weights_with_cuts(command, tmp_path, capsys):
    assert main([*command, "--most", "2"]) == 0
    before, after = (rcp.load_plugin(tmp_path / name) for name in ("plugin", "calibrated"))
    calibration = after.spec.calibration
    assert after.spec.selection == "calibrated" and after.spec.stages == before.spec.stages
    assert calibration.fewest == 0.25 and calibration.most == 2.0 and calibration.gaps[0] > 0
    assert f"{calibration.gaps[0]:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("--fewest 0", "calibration.fewest is 0.0"),
        ("--most 0.5", "calibration.most 0.5"),
        ("--limit 0", "--limit is 0"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--output .", "'.' exists already"),
        ("--plugin nowhere", "nowhere"),
    ],
)
def test_bad_requests_write_nothing(more, complaint, command, tmp_path, capsys):
    assert main([*command, *more.split()]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "calibrated").exists()


def test_what_is_calibrated_is_not_calibrated_again(command, tmp_path, capsys):
    assert main(command) == 0
    again = [*command, "--plugin", str(tmp_path / "calibrated"), "--output", str(tmp_path / "two")]
    assert main(again) == 2
    assert "no fixed ones" in capsys.readouterr().err
