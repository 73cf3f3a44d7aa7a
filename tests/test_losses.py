"""The loss terms against hand-written formulas, in value and gradient."""

import math

import pytest
import torch

from rcp.choosing.tokens import IGNORED
from rcp.objectives.losses import (
    EPSILON,
    budget_loss,
    distillation_loss,
    mean_kept_ratio,
    repair_loss,
    task_loss,
)


def test_task_loss_is_the_mean_over_samples_of_the_mean_over_answer_tokens():
    logits = torch.randn(3, 5, 7, requires_grad=True)
    labels = torch.full((3, 5), IGNORED)
    labels[0, 2:5] = torch.tensor([1, 2, 3])  # three answer tokens
    labels[1, 4] = 6  # one: must weigh as much as the three of the row above
    logs = logits.log_softmax(-1)
    first = -(logs[0, 1, 1] + logs[0, 2, 2] + logs[0, 3, 3]) / 3
    expected = (first - logs[1, 3, 6]) / 2  # the third row has no answer and does not count
    actual = task_loss(logits, labels)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_task_loss_without_any_answer_is_zero_and_differentiable():
    logits = torch.randn(2, 4, 7, requires_grad=True)
    loss = task_loss(logits, torch.full((2, 4), IGNORED))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_distillation_loss_is_the_divergence_at_answer_rows():
    student, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    labels = torch.full((2, 4), IGNORED)
    labels[0, 3], labels[1, 1] = 2, 4
    log_t, log_s = teacher.log_softmax(-1), student.log_softmax(-1)
    rows = (log_t.exp() * (log_t - log_s)).sum(-1)
    torch.testing.assert_close(
        distillation_loss(student, teacher, labels), (rows[0, 2] + rows[1, 0]) / 2
    )
    assert distillation_loss(teacher, teacher, labels).abs() < 1e-6


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("form", ["moments", "w2"])
def test_repair_loss_follows_its_formula(form, normalised):
    student, teacher = torch.randn(6, 4, requires_grad=True), 2 * torch.randn(6, 4) + 1
    mean_s, mean_t = student.mean(0), teacher.mean(0)
    var_s, var_t = student.var(0, correction=0), teacher.var(0, correction=0)
    spread = var_t + EPSILON if normalised else 1.0
    if form == "w2":
        second = ((var_s + EPSILON).sqrt() - (var_t + EPSILON).sqrt()) ** 2 / spread
    elif normalised:
        second = ((var_s + EPSILON).log() - (var_t + EPSILON).log()) ** 2
    else:
        second = (var_s - var_t) ** 2
    expected = ((mean_s - mean_t) ** 2 / spread).mean() + 2.5 * second.mean()
    actual = repair_loss(student, teacher, variance_weight=2.5, normalised=normalised, form=form)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_repair_loss_keeps_its_digits_far_from_zero():
    """E[h²] - μ² in fp32 would be off by its whole value here."""
    noise = torch.randn(64, 3)
    near, far = repair_loss(noise, 2 * noise), repair_loss(noise + 3000, 2 * noise + 3000)
    torch.testing.assert_close(near, far, rtol=0.01, atol=0.01)


def test_repair_loss_of_fewer_than_two_rows_has_nothing_to_compare():
    """A single row has no spread: dividing by it would let one row drown every other term."""
    for rows in (0, 1):
        student = torch.randn(rows, 4, requires_grad=True)
        loss = repair_loss(student, torch.randn(rows, 4))
        loss.backward()
        assert loss == 0 and not student.grad.any()


def test_mean_kept_ratio_weighs_layers_and_samples():
    valid = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    first = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]])  # dead slots are arbitrary
    second = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    # two layers before the first stage, three under it, one under the second
    expected = ((2 + 3 * 0.5 + 1 * 0.25) / 6 + (2 + 3 * 0.5 + 1 * 0.5) / 6) / 2
    actual = mean_kept_ratio([first, second], valid, [2, 5], 6)
    assert actual.item() == pytest.approx(expected)


def test_mean_kept_ratio_of_text_alone_is_one():
    nothing = torch.zeros(2, 0)
    assert mean_kept_ratio([nothing], nothing.bool(), [1], 4) == 1
    assert mean_kept_ratio([], torch.zeros(2, 3).bool(), [], 4) == 1


def test_budget_loss_is_the_distance():
    ratio = torch.tensor(0.2, requires_grad=True)
    loss = budget_loss(ratio, 0.5)
    loss.backward()
    assert math.isclose(loss.item(), 0.3, rel_tol=1e-6) and ratio.grad == -1
