"""Which visual tokens are left, and what a plan says of them: values worked out by hand."""

import pytest
import torch
from torch import Tensor

from rcp.attaching.forwards.survivors import Survivors
from rcp.choosing.schedule import Schedule
from rcp.choosing.tokens import build_token_map

# Seven columns; the first sample has text, three image columns, two of text; the second two image
# columns and two of text, and is padded.
SCHEDULE = Schedule(layers=(1, 3), ratios=(0.7, 0.3), num_layers=6)
IMAGE = {"left": [[0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]],
         "right": [[0, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]}
VALID = {"left": [[0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]],
         "right": [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]]}
AFTER = {
    "left": [[[0, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]],
             [[0, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]]],
    "right": [[[1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]],
              [[1, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]],
}


def mask(rows) -> Tensor:
    return torch.tensor(rows).bool()


@pytest.fixture(params=["left", "right"])
def side(request):
    return request.param


@pytest.fixture
def survivors(side):
    return Survivors(build_token_map(mask(IMAGE[side]), mask(VALID[side])), SCHEDULE)


def first_stage(survivors: Survivors) -> Tensor:
    """The first and third token of three stay, of two the second; the unreal slot is no choice."""
    survivors.drop(0, mask([[1, 0, 1], [0, 1, 1]]), None)
    return survivors.gone()


def test_at_first_all_are_there(survivors, side):
    assert survivors.columns.int().tolist() == VALID[side]
    assert survivors.alive.tolist() == [[True, True, True], [True, True, False]]
    assert survivors.counts == [[2, 1], [1, 1]]  # 2.1 and 1.4; 0.9 and 0.6
    assert survivors.before(0) == [3, 2] and survivors.before(1) == [2, 1]
    plan = survivors.plan()
    assert plan.layers == () and plan.alive.shape == (0, 2, 7) and plan.merges == {}


def test_two_stages_of_a_ragged_batch(survivors, side):
    gone = first_stage(survivors)
    assert gone.tolist() == [[False, True, False], [True, False, False]]
    assert survivors.alive.tolist() == [[True, False, True], [False, True, False]]
    assert survivors.columns.int().tolist() == AFTER[side][0]
    survivors.go_on(survivors.slots.compacted(mask([[1, 0, 1], [0, 1, 0]]), 2))
    assert survivors.slots.rank[0].tolist() == [0, 2] and survivors.slots.rank[1, 0] == 1
    assert survivors.slots.alive.tolist() == [[True, True], [True, False]]
    survivors.drop(1, mask([[0, 1], [1, 0]]), None)
    assert survivors.gone().tolist() == [[True, False], [False, False]]
    assert survivors.alive.tolist() == [[False, False, True], [False, True, False]]
    plan = survivors.plan()
    assert plan.layers == (1, 3)
    assert plan.alive.int().tolist() == AFTER[side]
    assert plan.visual.int().tolist() == IMAGE[side]
    assert plan.kept.tolist() == [[2, 1], [1, 1]]


def test_masked_slots_stay_in_their_places(survivors):
    first_stage(survivors)
    survivors.go_on(survivors.slots.masked(mask([[1, 0, 1], [0, 1, 1]])))
    assert survivors.slots.alive.tolist() == [[True, False, True], [False, True, False]]
    survivors.drop(1, mask([[0, 1, 1], [0, 1, 0]]), None)
    assert survivors.gone().tolist() == [[True, False, False], [False, False, False]]
    assert survivors.alive.tolist() == [[False, False, True], [False, True, False]]


def test_the_device_tells_what_a_threshold_left(survivors):
    survivors.drop(0, mask([[0, 1, 0], [0, 0, 0]]), None)
    assert survivors.counts[0] == [2, 1]
    assert survivors.counted(0) == [1, 0] and survivors.before(1) == [1, 0]


def test_values_of_the_slots_left_over_all_of_them(survivors):
    first_stage(survivors)
    survivors.go_on(survivors.slots.compacted(mask([[1, 0, 1], [0, 1, 0]]), 2))
    values = torch.tensor([[0.5, 0.25], [0.75, 0.0]])
    assert survivors.slots.over_all(values).tolist() == [[0.5, 0.0, 0.25], [0.0, 0.75, 0.0]]


def test_merge_weights_are_of_the_tokens_there_were_at_first(survivors):
    first_stage(survivors)
    survivors.go_on(survivors.slots.compacted(mask([[1, 0, 1], [0, 1, 0]]), 2))
    weights = torch.tensor([[[0.25, 1.0]], [[1.0, 0.0]]])
    survivors.drop(1, mask([[0, 1], [1, 0]]), weights)
    assert set(survivors.merges) == {1}
    assert survivors.plan().merges[1].tolist() == [[[0.25, 0.0, 1.0]], [[0.0, 1.0, 0.0]]]


def test_a_plan_says_again_what_was_kept_and_folded(survivors, side):
    weights = torch.tensor([[[0.25, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])
    survivors.drop(0, mask([[1, 0, 1], [0, 1, 0]]), None)
    survivors.drop(1, mask([[0, 0, 1], [0, 1, 0]]), weights)
    again = Survivors(survivors.tokens, SCHEDULE)
    keep, merged = again.planned(survivors.plan(), 0)
    assert keep.tolist() == [[True, False, True], [False, True, False]] and merged is None
    again.drop(0, keep, merged)
    again.go_on(again.slots.compacted(keep, 2))
    keep, merged = again.planned(survivors.plan(), 1)
    assert keep.tolist() == [[False, True], [True, False]]
    assert merged[0].tolist() == [[0.25, 1.0]] and merged[1, 0, 0] == 1
    again.drop(1, keep, merged)
    assert again.plan().alive.int().tolist() == AFTER[side]


def test_a_plan_without_the_stage_keeps_all(survivors):
    """A plan of text alone has no stage, whatever is replayed on it."""
    keep, merged = survivors.planned(survivors.plan(), 0)
    assert keep.tolist() == [[True, True, True], [True, True, False]] and merged is None
