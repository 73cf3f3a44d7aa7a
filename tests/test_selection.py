"""The selection contract, for every pruner there is (design invariant 4)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcp.choosing.relaxation import Relaxation
from rcp.choosing.selection import retention, straight_through, threshold, top_k
from rcp.pruners import PRUNERS, Pruner
from tests.tiny import COVIPAL_ARGUMENTS, RCP_ARGUMENTS
from tests.views import WIDTH, make_view, narrowed

ARGUMENTS = {"rcp": RCP_ARGUMENTS, "covipal": COVIPAL_ARGUMENTS}


def build(name):
    torch.manual_seed(0)
    return PRUNERS.get(name)(WIDTH, **ARGUMENTS.get(name, {})).eval()


@pytest.mark.parametrize("name", PRUNERS.names())
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 40),
    images=st.integers(1, 3),
    share=st.floats(0, 1),
    kind=st.sampled_from(["random", "duplicates", "pairs", "zeros"]),
    seed=st.integers(0, 1000),
)
def test_exactly_k_alive_tokens_whatever_the_neighbours(name, tokens, images, share, kind, seed):
    dead = torch.rand(3, tokens, generator=torch.Generator().manual_seed(seed)) < 0.3
    dead[:, 0] = False
    view = make_view(3, tokens, kind, seed, ~dead, images)
    pruner = build(name)
    counts = torch.tensor([1, int(share * tokens), tokens]).clamp(min=1)
    counts = torch.minimum(counts, view.alive.sum(1))
    with torch.no_grad():
        keep = pruner.select(view, counts)
        assert keep.dtype == torch.bool and not (keep & ~view.alive).any()
        expected = counts * keep.any(1) if pruner.may_drop_all else counts
        assert torch.equal(keep.sum(1), expected)
        for row in range(3):
            alone = pruner.select(narrowed(view, [row]), counts[row:row + 1])
            assert torch.equal(alone[0], keep[row]), "a choice depends on its batch neighbours"
            alive = view.alive[row].nonzero()[:, 0]
            compact = narrowed(view, [row], alive)
            chosen = pruner.select(compact, counts[row:row + 1])
            assert torch.equal(chosen[0], keep[row, alive]), "a choice depends on dead tokens"


MERGING = [name for name in PRUNERS.names() if PRUNERS.get(name).merge is not Pruner.merge]


@pytest.mark.parametrize("name", MERGING)
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 30),
    images=st.integers(1, 3),
    share=st.floats(0, 1),
    kind=st.sampled_from(["random", "duplicates", "pairs", "zeros"]),
    seed=st.integers(0, 1000),
)
def test_merge_weights_are_k_slots_of_alive_tokens(name, tokens, images, share, kind, seed):
    """(k, N) weights: each kept slot has a row; dead tokens and batch neighbours weigh nothing."""
    dead = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed)) < 0.3
    dead[:, 0] = False
    view = make_view(2, tokens, kind, seed, ~dead, images)
    pruner = build(name)
    counts = torch.tensor([1, int(share * tokens)]).clamp(min=1).minimum(view.alive.sum(1))
    with torch.no_grad():
        keep = pruner.select(view, counts)
        weights = pruner.merge(view, keep)
        if weights is None:  # a wrapper of a method that folds nothing
            return
        assert weights.shape == (2, int(counts.max()), tokens) and weights.isfinite().all()
        for row in range(2):
            count, kept = int(counts[row]), keep[row].nonzero()[:, 0]
            assert not weights[row, count:].any() and not weights[row][:, dead[row]].any()
            if kind != "zeros":  # a merged token lives in the slot of one of its members
                assert (weights[row, torch.arange(count), kept] > 0).all()
            alive = view.alive[row].nonzero()[:, 0]
            compact = narrowed(view, [row], alive)
            alone = pruner.merge(compact, pruner.select(compact, counts[row:row + 1]))
            assert torch.allclose(alone[0], weights[row, :count][:, alive], atol=1e-6)


def test_top_k_survives_nan_infinities_and_ties():
    scores = torch.tensor([[float("nan"), float("-inf"), float("inf"), 1.0, 1.0, 1.0]])
    alive = torch.tensor([[True, True, True, True, True, False]])
    assert top_k(scores, alive, torch.tensor([2])).tolist() == [[False, False, True, True, False,
                                                                False]]
    assert top_k(scores, alive, torch.tensor([5])).sum() == 5


def test_straight_through_is_hard_in_value_and_sigmoid_in_gradient():
    scores = torch.tensor([[2.0, 1.0, -1.0, 5.0]], requires_grad=True)
    alive = torch.tensor([[True, True, True, False]])
    keep = top_k(scores.detach(), alive, torch.tensor([1]))
    soft = straight_through(scores, keep, alive, Relaxation(temperature=0.5), centred=True)
    assert torch.equal(soft, keep.float())
    soft.sum().backward()
    gate = torch.sigmoid((torch.tensor([2.0, 1.0, -1.0]) - 1.5) / 0.5)
    expected = gate * (1 - gate) / 0.5
    assert torch.allclose(scores.grad[0, :3], expected) and scores.grad[0, 3] == 0


def test_threshold_and_noise():
    scores = torch.zeros(2, 4000)
    alive = torch.ones(2, 4000, dtype=torch.bool)
    assert not threshold(scores, alive).any()
    noisy = Relaxation(noise=1.0).perturb(scores)
    assert abs(noisy.mean()) < 0.1 and abs(noisy.std() - 3.14159 / 3**0.5) < 0.1  # logistic
    assert Relaxation(noise=0.0).perturb(scores) is scores


def test_retention_is_a_sigmoid_and_zero_where_nothing_is():
    scores = torch.tensor([[0.0, 2.0, -2.0, 9.0]], requires_grad=True)
    alive = torch.tensor([[True, True, True, False]])
    keep = threshold(scores.detach(), alive)
    relaxation = Relaxation(temperature=2.0, hard=False)
    soft = retention(scores, keep, alive, relaxation, centred=False)
    expected = torch.sigmoid(torch.tensor([0.0, 1.0, -1.0]))
    assert torch.allclose(soft[0, :3], expected) and soft[0, 3] == 0
    soft.sum().backward()
    assert torch.allclose(scores.grad[0, :3], expected * (1 - expected) / 2)


def test_centred_retention_knows_no_level_of_the_scores():
    """A ranking loss leaves it open; the tokens above the cut are those more than half retained."""
    scores = torch.tensor([[3.0, 1.0, -1.0, -2.0]])
    alive = torch.ones(1, 4, dtype=torch.bool)
    keep = top_k(scores, alive, torch.tensor([2]))
    relaxation = Relaxation(temperature=0.5, hard=False)
    here, there = (
        retention(scores + level, keep, alive, relaxation, centred=True) for level in (0.0, 50.0)
    )
    assert torch.allclose(here, there, atol=1e-5)
    assert torch.equal(here > 0.5, keep) and torch.allclose(here[0, 1] + here[0, 2], torch.ones(()))
