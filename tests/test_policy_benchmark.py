"""benchmarks/policy.py: its rows are at their budgets, and pairs are told apart exactly."""

import json
from pathlib import Path

import pytest

import rcp
from benchmarks import policy
from benchmarks.paired import mcnemar
from benchmarks.variants import CONFIGS, read_configuration
from rcp.choosing.schedule import Schedule
from tests.tiny import reference_plugin, tiny_llava_model

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (3, 1, 10 / 16), (2, 2, 1.0),
     (8, 1, 20 / 512)],
)
def test_p_by_hand(won: int, lost: int, p: float):
    """Twice the tail of a fair coin; questions that both answer alike say nothing."""
    first = [True] * won + [False] * lost + [True, False, True]
    second = [False] * won + [True] * lost + [True, False, True]
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == pytest.approx(p)


def test_many_pairs_stay_finite():
    first, second = [True] * 1200 + [False] * 900, [False] * 1200 + [True] * 900
    assert 0 < mcnemar(first, second) < 1e-9


def test_unequal_lists_are_no_pairs():
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


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
