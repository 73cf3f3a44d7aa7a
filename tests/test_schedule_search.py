"""The search for a schedule: what it proposes, what it finds, and what it is judged by."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rcp
from rcp.__main__ import main
from rcp.choosing.schedule import Schedule, schedule_for
from rcp.choosing.tokens import IGNORED
from rcp.errors import UserError
from rcp.evaluation.contestants import untrained
from rcp.evaluation.studies.schedule_search import (
    STEEPEST,
    Range,
    Trial,
    agreement,
    confirmed,
    cosines,
    fallen,
    search,
)
from tests.tiny import tiny_inputs
from tests.tiny_base import LAYERS

pytest_plugins = ["tests.training_fixtures"]

START = schedule_for(0.2, (1, 4, 9), 12)
WANTED = (0.22, 0.1, 0.08)


def like_wanted(schedule: Schedule) -> float:
    return -sum((a - b) ** 2 for a, b in zip(schedule.ratios, WANTED))


@given(
    first=st.integers(0, 3),
    gaps=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    falls=st.lists(st.floats(STEEPEST, 1.0), min_size=3, max_size=3),
    wiped=st.booleans(),
    share=st.floats(0.001, 1.0),
)
def test_whatever_is_proposed_spends_exactly_the_budget(first, gaps, falls, wiped, share):
    layers = [first]
    for gap in gaps:
        layers.append(layers[-1] + gap)
    wiped_from = 20 if wiped else None
    most = (wiped_from or 24) / 24
    budget = first / 24 + share * (most - first / 24)
    start = schedule_for(budget, tuple(layers), 24, wiped_from=wiped_from)
    found = fallen(start, falls[: len(gaps)])
    assert found.mean_ratio == pytest.approx(start.mean_ratio) == pytest.approx(budget)
    assert found.layers == start.layers and found.wiped_from == wiped_from
    assert list(found.ratios) == sorted(found.ratios, reverse=True)
    assert found.ratios[0] <= 1 and found.ratios[len(gaps)] > 0


def test_falls_by_hand():
    """Of 12 layers 3 keep all; 4 keep r, 5 keep r/2: 6.5 r = 0.5 * 12 - 3."""
    start = schedule_for(0.5, (3, 7), 12)
    assert fallen(start, [0.5]).ratios == pytest.approx((6 / 13, 3 / 13))
    # 4 layers can hold but 4 of the 5 that are left
    assert fallen(schedule_for(8 / 12, (3, 7), 12), [0.01]).ratios == pytest.approx((1, 1 / 5))


@pytest.mark.parametrize("mean", [0.12, 0.3, 0.9])
def test_the_usual_schedule_is_one_of_those_that_can_be_found(mean):
    start = schedule_for(mean, (1, 4, 9), 12, wiped_from=11)
    falls = [b / a for a, b in zip(start.ratios, start.ratios[1:-1])]
    assert fallen(start, falls).ratios == pytest.approx(start.ratios)
    assert min(falls) >= STEEPEST


def test_what_is_wanted_is_nearly_found():
    assert Schedule((1, 4, 9), WANTED, 12).mean_ratio == pytest.approx(0.2)
    tried = search(like_wanted, START, trials=60)
    best = max(tried, key=lambda trial: trial.value)
    assert tried[0].schedule == START and len(tried) == 60
    assert best.value > -0.001 > tried[0].value
    assert all(trial.value == like_wanted(trial.schedule) for trial in tried)


def test_trials_learn_from_those_before():
    tried = search(like_wanted, START, trials=60)
    early, late = ([trial.value for trial in some] for some in (tried[1:21], tried[-20:]))
    assert sum(late) / 20 > sum(early) / 20


def test_the_start_stays_where_nothing_is_better():
    tried = search(lambda schedule: float(schedule == START), START, trials=12)
    assert max(tried, key=lambda trial: trial.value).schedule is START
    assert search(like_wanted, START, trials=1)[0].schedule is START


def test_a_seed_tells_the_trials():
    assert search(like_wanted, START, 20, seed=1) == search(like_wanted, START, 20, seed=1)
    assert search(like_wanted, START, 20, seed=1) != search(like_wanted, START, 20, seed=2)


@pytest.mark.parametrize("wiped_from", [None, 9])
def test_one_stage_leaves_nothing_to_search(wiped_from):
    start = schedule_for(0.3, (2,), 12, wiped_from=wiped_from)
    with pytest.raises(UserError, match=r"layers \[2.* nothing to search.*two layers or more"):
        search(like_wanted, start, 5)


RANGES = {"alpha": Range(0.0, 4.0, 3.0), "cell": Range(1, 8, 2)}


def like_wanted_arguments(schedule, alpha=3.0, cell=2):
    return like_wanted(schedule) - (alpha - 1) ** 2 - (cell - 6) ** 2


def test_arguments_are_searched_with_the_schedule():
    tried = search(like_wanted_arguments, START, 60, ranges=RANGES)
    best = max(tried, key=lambda trial: trial.value)
    assert tried[0] == Trial(START, like_wanted_arguments(START), {}) and len(tried) == 60
    assert abs(best.arguments["alpha"] - 1) < 0.5 and best.arguments["cell"] == 6
    for trial in tried[1:]:
        assert trial.arguments.keys() == RANGES.keys() and type(trial.arguments["cell"]) is int
        assert 0 <= trial.arguments["alpha"] <= 4 and 1 <= trial.arguments["cell"] <= 8
        assert trial.schedule.mean_ratio == pytest.approx(0.2)
        assert trial.value == like_wanted_arguments(trial.schedule, **trial.arguments)


def test_of_one_stage_arguments_can_be_searched_from_a_start_beyond_their_range():
    start = schedule_for(0.3, (2,), 12)
    far = {"alpha": Range(0.0, 2.0, 9.0)}
    tried = search(lambda schedule, alpha=9.0: -abs(alpha - 1), start, 25, ranges=far)
    assert tried[0].value == -8 and {trial.schedule for trial in tried} == {start}
    assert max(trial.value for trial in tried) > -0.2


@pytest.mark.parametrize(("gains", "holds"), [
    ([0.1, 0.2, 0.3, 0.2], True),  # mean 0.2, deviation 0.071, error 0.035
    ([0.9, -0.5, 0.3, -0.5], False),  # mean 0.05, deviation 0.59, error 0.30
    ([-0.1, -0.1], False), ([0.0, 0.0], False), ([0.1], True),
])
def test_what_is_found_must_hold_on_other_samples(gains, holds):
    worth = {0: torch.zeros(len(gains)), 1: torch.tensor(gains)}
    start, best = Trial(START, 0.5), Trial(START, 0.9, {"alpha": 1})
    found = confirmed(start, best, lambda schedule, alpha=0: worth[alpha])
    assert found is (best if holds else start)


def prompts(inputs):
    return {"inputs": inputs, "labels": torch.full_like(inputs["input_ids"], IGNORED)}


def last_rows(model, inputs, plugin=None):
    """The last layer's output at the last column, heard by a hook, with the rest dropped."""
    heard = []
    layer = model.model.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda _, __, output: heard.append(output[:, -1]))
    with torch.no_grad():
        if plugin is None:
            model(**inputs)
        else:
            with rcp.attach(model, plugin, "drop"):
                model(**inputs)
    hook.remove()
    return heard[0]


def test_agreement_is_the_mean_cosine_over_samples(tiny_llava):
    """Of batches of different sizes, and for the schedule asked for, not for the plug-in's own."""
    schedules = [Schedule((1, 3), ratios, 6) for ratios in ((0.5, 0.25), (0.25, 0.125))]
    inputs = [tiny_inputs(questions=(6, 9)), tiny_inputs(questions=(7,), images=(1,))]
    plugin = untrained("uniform", schedules[0], tiny_llava)
    cosine = agreement(tiny_llava, plugin, [prompts(one) for one in inputs])
    values = []
    for schedule in schedules:
        pruned = untrained("uniform", schedule, tiny_llava)
        full, other = (
            torch.cat([last_rows(tiny_llava, one, by) for one in inputs]).double()
            for by in (None, pruned)
        )
        wanted = (full * other).sum(1) / full.norm(dim=1) / other.norm(dim=1)
        values.append(wanted.mean().item())
        assert len(wanted) == 3 and cosine(schedule) == pytest.approx(values[-1], abs=1e-5)
    assert abs(values[0] - values[1]) > 1e-4
    assert cosine(Schedule((1, 3), (1.0, 1.0), 6)) == pytest.approx(1, abs=1e-6)


def test_arguments_stand_in_the_place_of_the_usual_ones(tiny_llava):
    schedule, inputs = Schedule((1, 3), (0.5, 0.0), 6), tiny_inputs(questions=(6, 9))
    each = cosines(tiny_llava, untrained("random", schedule, tiny_llava), [prompts(inputs)])
    for seed in (1, 2):
        other = untrained("random", schedule, tiny_llava, seed=seed)
        pruned, full = (last_rows(tiny_llava, inputs, by) for by in (other, None))
        wanted = torch.nn.functional.cosine_similarity(full, pruned)
        assert torch.allclose(each(schedule, seed=seed), wanted, atol=1e-5)
    assert not torch.allclose(each(schedule, seed=1), each(schedule, seed=2), atol=1e-5)


def test_a_state_that_is_not_finite_is_told(tiny_llava):
    plugin = untrained("uniform", schedule_for(0.5, (1, 3), 6), tiny_llava)
    inputs = tiny_inputs()
    inputs["pixel_values"] = inputs["pixel_values"] * torch.inf
    cosine = agreement(tiny_llava, plugin, [prompts(inputs)])
    with pytest.raises(UserError, match="not finite.*--dtype"):
        cosine(plugin.schedule)


@pytest.fixture
def command(base_folder, conversations, tmp_path):
    return ["search-schedule", "--pruner", "fastv", "--base", str(base_folder), "--data",
            str(conversations), "--device", "cpu", "--budget", "7", "--layers", "1", "2", "3",
            "--trials", "6", "--samples", "5", "--batch-size", "2",
            "--output", str(tmp_path / "plugin")]


def test_the_command_writes_a_plugin_with_what_it_found(command, tmp_path, capsys):
    assert main(command) == 0
    said = capsys.readouterr().out
    plugin = rcp.load_plugin(tmp_path / "plugin")
    assert plugin.schedule.layers == (1, 2, 3) and plugin.num_layers == LAYERS
    assert plugin.mean_ratio == pytest.approx(7 / 16)
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+)$", said, re.MULTILINE)
    start = schedule_for(7 / 16, (1, 2, 3), LAYERS)
    assert [float(row[1]) for row in rows] == [round(100 * one, 2) for one in start.ratios]
    assert [float(row[2]) for row in rows] == [round(100 * x, 2) for x in plugin.schedule.ratios]
    before, after = map(float, re.search(r"^cosine +(\S+) +(\S+)$", said, re.MULTILINE).groups())
    assert after >= before
    again = command[:-1] + [str(tmp_path / "again")]
    assert main(again) == 0
    one, other = (
        json.loads((tmp_path / name / "plugin.json").read_text()) for name in ("plugin", "again")
    )
    assert one == other


def searching_vflowopt(command, *more):
    line = [*command, "--layers", "0", "2", "--argument", "cell=1..3", *more]
    line[line.index("fastv")] = "vflowopt"
    return line


def test_the_command_searches_arguments(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rcp.commands.search_schedule.confirmed", lambda start, best, _: best)
    assert main(searching_vflowopt(command, "--argument", "alpha=0..1.5")) == 0
    said = capsys.readouterr().out
    cell, alpha = (
        float(re.search(rf"^{name}: {usual} at the start, found (\S+)$", said, re.M)[1])
        for name, usual in (("cell", "6"), ("alpha", "17.39"))
    )
    stages = rcp.load_plugin(tmp_path / "plugin").spec.stages
    assert [stage.layer for stage in stages] == [0, 2]
    for stage in stages:
        assert stage.arguments == {"cell": cell, "alpha": pytest.approx(alpha, rel=1e-5)}
    assert 0 <= alpha <= 1.5 and cell in (1, 2, 3)


def test_the_start_is_written_where_what_was_found_does_not_hold(command, tmp_path, monkeypatch,
                                                                 capsys):
    def each(*_):
        return lambda schedule, **arguments: torch.full((2,), 0.5 if arguments else 0.6)

    monkeypatch.setattr("rcp.commands.search_schedule.cosines", each)
    monkeypatch.setattr(
        "rcp.commands.search_schedule.agreement",
        lambda *_: lambda schedule, **arguments: float(bool(arguments)),
    )
    assert main(searching_vflowopt(command)) == 0
    said = capsys.readouterr().out
    assert "no better on other samples: the start stays" in said and "found 6" in said
    plugin = rcp.load_plugin(tmp_path / "plugin")
    assert plugin.schedule == schedule_for(7 / 16, (0, 2), LAYERS)
    assert [stage.arguments for stage in plugin.spec.stages] == [{}, {}]


def test_what_is_found_is_judged_on_the_other_half(command, monkeypatch):
    shown = []

    def told(model, plugin, batches):
        shown.append(sum(len(batch["labels"]) for batch in batches))
        return cosines(model, plugin, batches)

    monkeypatch.setattr("rcp.commands.search_schedule.cosines", told)
    command[command.index("--samples") + 1] = "8"
    assert main(command) == 0
    assert shown == [4]


def test_all_that_is_left_can_go_at_a_layer(command, tmp_path):
    command[command.index("--layers") + 3] = "--wiped-from"
    command.insert(command.index("--wiped-from") + 1, "3")
    assert main(command) == 0
    plugin = rcp.load_plugin(tmp_path / "plugin")
    assert plugin.schedule.layers == (1, 2, 3) and plugin.schedule.wiped_from == 3
    assert plugin.mean_ratio == pytest.approx(7 / 16)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("--budget 4", "first pruning layer at 1"),
        ("--budget 17", "budget of 17"),
        ("--layers 1", "nothing to search"),
        ("--layers 1 4", "layer 4 is outside the model"),
        ("--pruner fastw", "fastw"),
        ("--pruner rcp", "has weights to train"),
        ("--argument alpha=0..1", "names no number 'fastv' takes. Its numbers are none"),
        ("--pruner vflowopt --argument gamma=0..1", "numbers are alpha, cell, threshold"),
        ("--pruner vflowopt --argument alpha", "alpha is no range: write NAME=LOW..HIGH"),
        ("--pruner vflowopt --argument alpha=2..1", "two numbers, the lower first"),
        ("--pruner vflowopt --argument alpha=0..inf", "two numbers, the lower first"),
        ("--pruner vflowopt --argument alpha=nan..1", "two numbers, the lower first"),
        ("--pruner vflowopt --argument cell=1.5..3", "two whole numbers"),
        ("--pruner vflowopt --argument cell=0..3", "cell is 0, but it must be from 1"),
        ("--pruner vflowopt --argument cell=1..3 --argument cell=1..2", "given twice"),
        ("--samples 1", "judged by nothing"),
        ("--trials 0", "--trials is 0"),
        ("--samples -1", "--samples is -1"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--output .", "'.' exists already"),
        ("--output /proc/plugin", "nothing can be written in '/proc'"),
    ],
)
def test_bad_requests_are_refused(more, complaint, command, tmp_path, capsys):
    assert main([*command, *more.split()]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "plugin").exists()


def test_without_optuna_it_says_how_to_get_it(command, monkeypatch, capsys):
    monkeypatch.setattr("rcp.commands.search_schedule.find_spec", lambda _: None)
    assert main(command) == 2
    assert "pip install rcp[search]" in capsys.readouterr().err
