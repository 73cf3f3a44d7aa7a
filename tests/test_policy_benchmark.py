"""benchmarks/policy.py: its rows are at their budgets, and a contestant answers once."""

import json
from pathlib import Path

import pytest

import rcp
from benchmarks import policy
from benchmarks.variants import CONFIGS, read_configuration
from rcp.choosing.schedule import Schedule
from tests.tiny import reference_plugin, tiny_llava_model

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "tokens"), [("N/36", 4), ("N/9", 16)])
def test_rows_are_at_their_budget(name: str, tokens: int):
    recipe = read_configuration(ROOT / CONFIGS / policy.RECIPE)
    ratios = policy.budget_of(recipe, policy.BUDGETS[name])
    layers = [stage["layer"] for stage in recipe["model"]["plugin"]["stages"]]
    schedule = Schedule(tuple(layers), tuple(ratios), 24)
    counts = [schedule.count(stage, 144) for stage in range(len(layers))]
    mean = sum(n * count for n, count in zip(schedule.spans[1:], counts)) / 24
    assert mean == pytest.approx(tokens, rel=0.1)


def test_pruners_keep_their_weights_and_lose_the_repair(tmp_path: Path):
    model = tiny_llava_model()
    taught = reference_plugin("rcp", model, repair=(3,))
    rcp.save_plugin(taught, tmp_path / "plugin")
    ratios = [0.1 / (n + 1) for n in range(len(taught.spec.stages))]
    found = policy.pruners_at(tmp_path / "plugin", ratios)
    assert found.repair is None and list(found.schedule.ratios) == pytest.approx(ratios)
    own, theirs = found.pruners.state_dict(), taught.pruners.state_dict()
    assert all((own[name] == value).all() for name, value in theirs.items()) and own


def test_a_contestant_answers_once(tmp_path: Path):
    questions = policy.Questions.__new__(policy.Questions)
    questions.folder, questions.count = tmp_path, 2
    (tmp_path / "N_36_guide,_longer-2.json").write_text(json.dumps([True, False]))
    assert questions.right("N/36 guide, longer", None) == [True, False]
