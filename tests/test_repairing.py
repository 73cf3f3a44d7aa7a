"""What repair remembers of each stage, and where it adds: values worked out by hand."""

from dataclasses import dataclass, replace

import torch

from rcp.attaching.forwards.repairing import Repairing
from rcp.choosing.tokens import build_token_map
from rcp.repair import RepairAdapter

NAN = torch.nan
# two visual tokens and a newline after them, then two columns of text; the second sample has none
IMAGE = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
VALID = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).bool()
GRID = torch.tensor([[[0.0, -0.5], [0.0, 0.5], [NAN, NAN]], [[0.0, 0.0]] * 3])
ALL = build_token_map(IMAGE, VALID)
TOKENS = replace(ALL, grid=GRID, host=replace(ALL.host, all_placed=False))
NORMED = torch.tensor([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], [[NAN, NAN]] * 3])


class Plain(RepairAdapter):
    """Remembers (sum of what was dropped, its count); adds the context's first entry times the
    layer's number."""

    def remember(self, dropping):
        self.seen = dropping
        return torch.cat([dropping.sums, dropping.pruned_count[:, None]], 1)

    def forward(self, layer, hidden, context):
        return torch.ones_like(hidden) * context[:, None, :1] * layer


def mask(*rows):
    return torch.tensor(rows).bool()


def repairing(all_text: bool = False) -> Repairing:
    return Repairing(Plain(2, [3, 5]), TOKENS, all_text)


@dataclass
class Left:
    """What repair reads of the survivors of a stage."""

    dropped: torch.Tensor
    alive: torch.Tensor
    gone_each = None

    def gone(self):
        return self.dropped


def drop(repair: Repairing, stage: int, gone, alive) -> None:
    nothing = [0] * 3
    repair.remember(stage, NORMED, Left(mask(gone, nothing), mask(alive, nothing)))


def test_contexts_add_up_over_stages():
    """The newline goes first, then one token: rows are summed as they are dropped."""
    repair = repairing()
    drop(repair, 0, gone=[0, 0, 1], alive=[1, 1, 0])
    assert repair.contexts[0].tolist() == [[100.0, 200.0, 1.0], [0.0, 0.0, 0.0]]
    drop(repair, 1, gone=[1, 0, 0], alive=[0, 1, 0])
    assert repair.contexts[1].tolist() == [[101.0, 202.0, 2.0], [0.0, 0.0, 0.0]]
    assert repair.contexts[0].tolist() == [[100.0, 200.0, 1.0], [0.0, 0.0, 0.0]]


def test_the_adapter_is_told_places_and_what_exists():
    """A newline has no place, and exists; slots of the sample without image do not."""
    repair = repairing()
    drop(repair, 0, gone=[0, 1, 0], alive=[1, 0, 1])
    seen = repair.adapter.seen
    assert seen.exists.tolist() == [[True] * 3, [False] * 3]
    assert seen.alive.tolist() == [[True, False, True], [False] * 3]
    assert seen.grid[0].isnan().any(-1).tolist() == [False, False, True]
    assert seen.sums.dtype == torch.float32 and seen.pruned_count.tolist() == [1, 0]


def test_a_stage_that_drops_nothing_adds_nothing():
    repair = repairing()
    drop(repair, 0, gone=[0, 0, 0], alive=[1, 1, 1])
    assert repair.contexts[0].tolist() == [[0.0] * 3] * 2
    drop(repair, 1, gone=[0, 1, 0], alive=[1, 0, 1])
    drop(repair, 2, gone=[0, 0, 0], alive=[1, 0, 1])
    assert torch.equal(repair.contexts[2], repair.contexts[1])


def test_a_second_turn_keeps_the_context_of_an_older_image():
    """The first sample has a new image, the second only the one of the turn before."""
    repair = repairing()
    earlier = {0: torch.tensor([[7.0, 7.0, 7.0], [8.0, 8.0, 8.0]])}
    repair.go_on(earlier, torch.tensor([[True], [True]]))
    assert torch.equal(repair.contexts[0], earlier[0])  # until a stage has something new
    drop(repair, 0, gone=[0, 0, 1], alive=[1, 1, 0])
    assert repair.contexts[0].tolist() == [[100.0, 200.0, 1.0], [8.0, 8.0, 8.0]]
    drop(repair, 1, gone=[1, 0, 0], alive=[0, 1, 0])
    assert repair.contexts[1].tolist() == [[101.0, 202.0, 2.0], [0.0, 0.0, 0.0]]
    assert earlier[0][0].tolist() == [7.0] * 3  # of the turn before, and left alone


def test_only_answer_rows_of_samples_that_have_seen_an_image_change():
    repair, hidden = repairing(), torch.zeros(2, 5, 2)
    assert repair.at.listed.tolist() == [[4], [4]]
    drop(repair, 0, gone=[0, 0, 1], alive=[1, 1, 0])
    changed = repair.repaired(3, 0, hidden, repair.at)
    assert changed[0].tolist() == [[0.0, 0.0]] * 4 + [[300.0, 300.0]]
    assert not changed[1].any() and not hidden.any()
    repair = repairing()
    repair.go_on({0: torch.ones(2, 3)}, torch.tensor([[False], [True]]))
    assert repair.repaired(5, 0, hidden, repair.at)[:, 4, 0].tolist() == [5.0, 5.0]


def test_all_text_may_be_repaired():
    repair, hidden = repairing(all_text=True), torch.zeros(2, 5, 2)
    assert repair.at.listed[0].tolist()[:2] == [3, 4] and repair.at.listed[1].tolist() == [2, 3, 4]
    assert repair.at.valid.tolist() == [[True, True, False], [True, True, True]]
    repair.go_on({0: torch.ones(2, 3)}, torch.tensor([[True], [True]]))
    changed = repair.repaired(3, 0, hidden, repair.at)[..., 0]
    assert changed.tolist() == [[0.0, 0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0, 3.0]]


def test_nothing_changes_before_a_stage_or_without_an_adapter():
    repair, hidden = repairing(), torch.ones(2, 5, 2)
    assert repair.acts_at(3) and not repair.acts_at(4)
    for stage in (None, 0):
        assert repair.repaired(3, stage, hidden, repair.at) is hidden
    none = Repairing(None, TOKENS, all_text=False)
    assert not none.acts_at(3) and none.repaired(3, 0, hidden, none.at) is hidden
