"""Draws without replacement: their probability, and what they teach, against exact enumeration."""

import math
from itertools import permutations

import pytest
import torch

from rcp.choosing.sampling import Sampling
from rcp.choosing.selection import top_k
from rcp.objectives.plackett_luce import advantages, log_probability, policy_loss

ODDS = [1.0, 2.0, 5.0]


def drawn(orders: list[tuple[int, ...]], tokens: int) -> torch.Tensor:
    """Rows that say of each order which token came first, second and so on."""
    found = torch.full((len(orders), tokens), -torch.inf)
    for row, order in enumerate(orders):
        for place, token in enumerate(order):
            found[row, token] = -float(place)
    return found


@pytest.mark.parametrize(
    ("order", "probability"),
    [((2, 1, 0), 5 / 8 * 2 / 3), ((0, 1, 2), 1 / 8 * 2 / 7), ((1, 0), 2 / 8 * 1 / 6),
     ((2,), 5 / 8), ((), 1.0)],
)
def test_an_order_of_three(order: tuple[int, ...], probability: float):
    scores = torch.tensor([ODDS]).log() + 3  # a constant changes nothing
    found = log_probability(scores, drawn([order], 3), torch.ones(1, 3, dtype=torch.bool))
    assert found.exp().item() == pytest.approx(probability, rel=1e-5)
    assert found.dtype == torch.float32


def test_absent_tokens_are_never_drawn():
    """They take nothing from the others either, and no gradient reaches their scores."""
    scores = torch.tensor([[0.0, 9.0, math.log(3.0), 7.0]], requires_grad=True)
    alive = torch.tensor([[True, False, True, False]])
    found = log_probability(scores, drawn([(2, 0)], 4), alive)
    assert found.exp().item() == pytest.approx(0.75)
    found.sum().backward()
    assert scores.grad[0, 1] == 0 == scores.grad[0, 3]
    assert log_probability(scores, drawn([(1,)], 4), alive).exp().item() == 0
    noisy = Sampling().perturb(scores.detach().expand(500, 4))
    keep = top_k(noisy, alive.expand(500, 4), torch.full((500,), 3))
    assert not keep[:, [1, 3]].any() and keep[:, [0, 2]].all()


def test_a_row_without_tokens_teaches_nothing():
    scores = torch.zeros(2, 3, requires_grad=True)
    alive = torch.tensor([[False] * 3, [True] * 3])
    found = log_probability(scores, drawn([(), (0,)], 3), alive)
    found.sum().backward()
    assert found[0] == 0 and (scores.grad[0] == 0).all()
    assert scores.grad[1].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_draws_come_as_often_as_they_should():
    torch.manual_seed(0)
    count = 40_000
    noisy = Sampling().perturb(torch.tensor(ODDS).log().expand(count, 3))
    orders, found = noisy.argsort(1, descending=True).unique(dim=0, return_counts=True)
    for order, times in zip(orders.tolist(), found.tolist()):
        row = log_probability(torch.tensor([ODDS]).log(), drawn([tuple(order)], 3),
                              torch.ones(1, 3, dtype=torch.bool))
        assert times / count == pytest.approx(row.exp().item(), abs=0.01)
    assert noisy.isfinite().all() and len(orders) == 6


def test_half_precision_scores_are_drawn_in_single():
    assert Sampling().perturb(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_expected_gradient_is_that_of_the_expected_reward():
    """Four tokens, two drawn: the sum over all orders, each as often as it comes."""
    scores = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float32, requires_grad=True)
    orders = list(permutations(range(4), 2))
    worth = torch.tensor([[0.0, 1.0, 4.0, -2.0]])
    sets = drawn(orders, 4).isfinite().float()
    reward = (sets * worth).sum(1) + 3 * sets[:, 1] * sets[:, 2]  # two that matter together
    alive = torch.ones(len(orders), 4, dtype=torch.bool)
    found = log_probability(scores.expand(len(orders), 4), drawn(orders, 4), alive)
    assert found.exp().sum().item() == pytest.approx(1.0, rel=1e-5)
    (exact,) = torch.autograd.grad((found.exp() * reward).sum(), scores, retain_graph=True)
    for baseline in (0.0, reward.mean().item()):  # which takes nothing from the expectation
        per_order = [torch.autograd.grad(each, scores, retain_graph=True)[0] for each in found]
        estimates = torch.stack(per_order) * (reward - baseline)[:, None]
        expected = (found.exp().detach()[:, None] * estimates).sum(0)
        torch.testing.assert_close(expected, exact, rtol=1e-4, atol=1e-5)


def test_an_advantage_is_measured_by_its_own_group():
    rewards = torch.tensor([[1.0, -9.0, 2.0], [3.0, -9.0, 2.0], [2.0, -9.0, 5.0]])
    found = advantages(rewards)
    spread = math.sqrt(2 / 3)
    assert found[:, 0].tolist() == pytest.approx([-1 / spread, 1 / spread, 0.0])
    assert found[:, 1].tolist() == [0.0, 0.0, 0.0], "equal rewards teach nothing"
    assert found[:, 2].tolist() == pytest.approx([-1 / 2**0.5, -1 / 2**0.5, 2**0.5])


def test_rewards_that_hardly_differ_teach_in_proportion():
    found = advantages(torch.tensor([[-0.01, -0.5], [-0.03, -0.5 - 6e-8], [-0.02, -0.5]]))
    assert found[:, 0].tolist() == pytest.approx([0.1, -0.1, 0.0], abs=1e-6), "by 0.1 nats"
    assert found[:, 1].abs().max() < 1e-5, "rounding teaches nothing"


def test_the_loss_by_hand():
    """Two draws of two samples, the second of which does not count."""
    logs = torch.tensor([[-1.0, -5.0], [-2.0, -7.0]], requires_grad=True)
    rewards = torch.tensor([[0.0, 1.0], [-1.0, 4.0]])
    loss = policy_loss(logs, rewards, torch.tensor([True, False]))
    assert loss.item() == pytest.approx(-(1 * -1 + -1 * -2) / 2)
    loss.backward()
    assert logs.grad.tolist() == [[-0.5, 0.0], [0.5, 0.0]], "what gained becomes likelier"
    assert policy_loss(logs, rewards, torch.tensor([False, False])).item() == 0
