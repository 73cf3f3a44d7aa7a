"""Tokens by group, against loops over them."""

import pytest
import torch

from rcp.choosing.groups import consecutive, listed_by_group, place_in_group, quotas, sizes

MEMBER = torch.tensor([[1, 1, 0, 1, 1, 1, 0]]).bool()
GROUP = torch.tensor([[0, 0, 9, 1, 1, 1, 1]])


def test_numbers_without_gaps():
    assert consecutive(torch.tensor([[2, 2, 0, 5, 5, 7, 5]]), MEMBER)[MEMBER].tolist() == [
        0, 0, 1, 1, 2
    ]
    assert not consecutive(GROUP, torch.zeros_like(MEMBER)).any()


def test_places_go_by_worths_in_turn_then_by_raster():
    worth = torch.tensor([[1.0, 2.0, 9.0, 5.0, 5.0, 6.0, 9.0]])
    assert place_in_group(GROUP, MEMBER, worth)[MEMBER].tolist() == [1, 0, 1, 2, 0]
    assert place_in_group(GROUP, MEMBER)[MEMBER].tolist() == [0, 1, 0, 1, 2]
    later = torch.tensor([[0, 1, 0, 0, 1, 0, 0]])
    assert place_in_group(GROUP, MEMBER, worth > 4, later)[MEMBER].tolist() == [1, 0, 1, 0, 2]


def test_a_count_is_shared_out_by_size():
    """3 of 5 tokens: 1.2 and 1.8, so 1 and 2; of 2 and 2 the odd one goes to the first."""
    member = torch.ones(1, 5, dtype=torch.bool)
    group = torch.tensor([[0, 0, 1, 1, 1]])
    assert quotas(torch.tensor([3]), group, member).tolist() == [[1, 1, 2, 2, 2]]
    assert quotas(torch.tensor([1]), group[:, :4], member[:, :4]).tolist() == [[1, 1, 0, 0]]
    assert quotas(torch.tensor([5]), group, member).tolist() == [[2, 2, 3, 3, 3]]


@pytest.mark.parametrize("seed", range(100))
def test_groups_are_those_of_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = int(torch.randint(1, 4, (), generator=generator)), seed % 13 + 1
    member = torch.rand(batch, tokens, generator=generator) > (0.3 if seed % 2 else -1)
    labels = torch.randint(0, 3, (batch, tokens), generator=generator).cumsum(1)
    worth = torch.randint(0, 3, (batch, tokens), generator=generator)
    group = consecutive(labels, member)
    place, size = place_in_group(group, member, worth), sizes(group, member)
    counts = (torch.rand(batch, generator=generator) * (member.sum(1) + 1)).long()
    counts = torch.minimum(counts, member.sum(1))
    quota = quotas(counts, group, member)
    width = int(size.max())
    slots, taken = listed_by_group(group, member, int(group.max()) + 1, max(width, 1))
    for row in range(batch):
        names = sorted(set(labels[row][member[row]].tolist()))
        shared = 0
        for number, name in enumerate(names):
            own = [t for t in range(tokens) if member[row, t] and labels[row, t] == name]
            assert all(group[row, t] == number and size[row, t] == len(own) for t in own)
            ranked = sorted(own, key=lambda t: -int(worth[row, t]))
            assert [int(place[row, t]) for t in ranked] == list(range(len(own)))
            assert slots[row, number][taken[row, number]].tolist() == own
            exact = int(counts[row]) * len(own) / int(member[row].sum())
            (share,) = {*quota[row, own].tolist()}
            assert abs(share - exact) < 1
            shared += share
        assert shared == counts[row]
        assert (place[row][~member[row]] == tokens).all()
