"""Keep plans by value: saved, read again, of one sample for many, and one behind another."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcp import KeepPlan, UserError


def a_plan() -> KeepPlan:
    """Columns: text, four image columns, text; two stages leave three of them, then one."""
    return KeepPlan(
        layers=(1, 3),
        alive=torch.tensor([[[1, 1, 1, 0, 1, 1]], [[1, 0, 1, 0, 0, 1]]]).bool(),
        visual=torch.tensor([[0, 1, 1, 1, 1, 0]]).bool(),
        merges={1: torch.tensor([[[0.25, 1.0, 0.0, 0.5]]])},
    )


def same(one: KeepPlan, other: KeepPlan) -> bool:
    tensors = [[plan.alive, plan.visual, plan.merges[1]] for plan in (one, other)]
    return one.layers == other.layers and all(map(torch.equal, *tensors))


def test_a_plan_written_with_what_earlier_versions_added_still_loads(tmp_path):
    path, plan = tmp_path / "plan.safetensors", a_plan()
    plan.save(path)
    assert same(KeepPlan.load(path), plan)
    added = {"prompt_end": torch.tensor([6]), "memory.context.0": torch.ones(1, 4)}
    save_file(load_file(path) | added, path)
    assert same(KeepPlan.load(path), plan)


@pytest.mark.parametrize("name", ["", "none.safetensors", "x" * 5000])
def test_a_plan_that_is_not_there_is_refused(name: str, tmp_path):
    with pytest.raises(UserError, match="There is no plan file"):
        KeepPlan.load(tmp_path / name)


def test_the_plan_of_one_sample_for_three():
    plan = a_plan().spread(3)
    assert plan.kept.tolist() == [[3, 3, 3], [1, 1, 1]]
    assert plan.visual.shape == (3, 6) and plan.merges[1].shape == (3, 1, 4)
    assert torch.equal(plan.alive[:, 2], a_plan().alive[:, 0])


def test_a_plan_behind_an_earlier_one_speaks_of_all_columns():
    """Two columns were generated in between; they are alive, and no image."""
    plan = a_plan().after(a_plan(), start=8)
    assert plan.alive[1].int().tolist() == [[1, 0, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1]]
    assert plan.visual.int().tolist() == [[0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0]]
    assert plan.kept.tolist() == [[6], [2]]
