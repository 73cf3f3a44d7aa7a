"""Every term of the loss on a handful of numbers, worked out by hand."""

import math

import pytest
import torch

from rcp.attaching.trace import Trace
from rcp.choosing.tokens import IGNORED
from rcp.objectives.labels import attention_labels, relevance_labels, sinks
from rcp.objectives.losses import (
    EPSILON,
    budget_loss,
    distillation_loss,
    indecision_loss,
    mean_kept_ratio,
    ranking_loss,
    repair_loss,
    retention_loss,
    score_loss,
    task_loss,
)
from rcp.objectives.relevance import relevance


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def logs(*shares: float) -> list[float]:
    """Logits of a distribution, moved by a constant that no softmax sees."""
    return [math.log(share) + 3 for share in shares]


def test_the_task_on_two_answers():
    logits = torch.tensor([
        [logs(0.5, 0.3, 0.2), logs(0.25, 0.5, 0.25), logs(0.1, 0.1, 0.8)],
        [logs(0.6, 0.2, 0.2), logs(0.2, 0.2, 0.6), logs(0.1, 0.8, 0.1)],
    ])
    labels = torch.tensor([[2, 1, 0], [2, IGNORED, 2]])
    # row t says the token of column t + 1; what column 0 is nobody says
    first, second = -(math.log(0.3) + math.log(0.25)) / 2, -math.log(0.6)
    assert task_loss(logits, labels).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_distillation_goes_from_the_teacher_to_the_student():
    student = torch.tensor([[logs(0.5, 0.5), logs(0.9, 0.1), logs(0.3, 0.7)]] * 2)
    teacher = torch.tensor([[logs(0.8, 0.2), logs(0.6, 0.4), logs(0.2, 0.8)]] * 2)
    labels = torch.tensor([[0, 1, IGNORED], [IGNORED, 0, 1]])
    at_first = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    at_second = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    expected = (at_first + (at_first + at_second) / 2) / 2
    assert distillation_loss(student, teacher, labels).item() == pytest.approx(expected, rel=1e-5)


STUDENT = tensor([1.0, 0.0, 2.0], [3.0, 0.0, 6.0])  # means 2, 0, 4; variances 1, 0, 4
TEACHER = tensor([0.0, 1.0, 3.0], [4.0, 3.0, 5.0])  # means 2, 2, 4; variances 4, 1, 1


def test_repair_literally():
    found = repair_loss(STUDENT, TEACHER, variance_weight=2.0, normalised=False)
    assert found.item() == pytest.approx((0 + 4 + 0) / 3 + 2 * (9 + 1 + 9) / 3, rel=1e-5)
    default = repair_loss(STUDENT, TEACHER, normalised=False)
    assert default.item() == pytest.approx(4 / 3 + 3 * 19 / 3, rel=1e-5)


def test_repair_in_units_of_the_teacher():
    gaps = [math.log((s + EPSILON) / (t + EPSILON)) ** 2 for s, t in ((1, 4), (0, 1), (4, 1))]
    expected = 4 / (1 + EPSILON) / 3 + 2 * sum(gaps) / 3
    found = repair_loss(STUDENT, TEACHER, variance_weight=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalised", [True, False])
def test_repair_by_standard_deviations(normalised: bool):
    spreads = [4, 1, 1] if normalised else [1, 1, 1]
    gaps = [(math.sqrt(s) - math.sqrt(t)) ** 2 for s, t in ((1, 4), (0, 1), (4, 1))]
    expected = 4 / spreads[1] / 3 + 2 * sum(g / spread for g, spread in zip(gaps, spreads)) / 3
    found = repair_loss(STUDENT, TEACHER, variance_weight=2.0, normalised=normalised, form="w2")
    assert found.item() == pytest.approx(expected, rel=0.01)


def test_two_rows_are_compared_and_one_is_not():
    assert repair_loss(STUDENT, TEACHER) > 0
    assert repair_loss(STUDENT[:1], TEACHER[:1]) == 0


def test_the_kept_ratio_weighs_layers_and_samples():
    valid = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]]).bool()
    first = tensor([1.0, 1.0, 0.0], [1.0, 0.5, 1.0], [1.0, 1.0, 1.0])
    second = tensor([1.0, 0.0, 0.0], [0.5, 0.0, 1.0], [1.0, 1.0, 1.0])
    # of ten layers two keep all, three the first mask, five the second
    one = (2 + 3 * 2 / 3 + 5 * 1 / 3) / 10
    two = (2 + 3 * 1.5 / 2 + 5 * 0.5 / 2) / 10
    ratio = mean_kept_ratio([first, second], valid, [2, 5], 10)
    assert ratio.item() == pytest.approx((one + two) / 2, rel=1e-5)
    assert mean_kept_ratio([first], valid & False, [2], 10).item() == 1.0
    one_image = torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()
    assert mean_kept_ratio([first[:2]], one_image, [0], 4).item() == pytest.approx(2 / 3)


def test_the_budget_is_missed_alike_on_both_sides():
    assert budget_loss(torch.tensor(0.5), 0.3).item() == pytest.approx(0.2)
    assert budget_loss(torch.tensor(0.1), 0.3).item() == pytest.approx(0.2)


KNOWN = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()


def test_ranking_is_the_divergence_from_the_labels():
    scores = tensor([*logs(0.5, 0.5), 50.0], logs(0.2, 0.3, 0.5))
    labels = tensor([0.9, 0.1, 0.0], [0.0, 0.5, 0.5])
    first = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    second = 0.5 * math.log(0.5 / 0.3)
    found = ranking_loss(scores, labels, KNOWN).item()
    assert found == pytest.approx((first + second) / 2, rel=1e-5)
    silent = tensor([0.9, 0.1, 0.0], [0.0, 0.0, 0.0])  # a sample nobody knows anything about
    assert ranking_loss(scores, silent, KNOWN).item() == pytest.approx(first, rel=1e-5)


def test_a_hopeless_token_costs_much_and_stays_finite():
    scores, labels = tensor([0.0, -1e6]), tensor([0.0, 1.0])
    assert ranking_loss(scores, labels, torch.ones(1, 2).bool()).item() == pytest.approx(1e4)


def test_scores_are_held_to_labels():
    scores = tensor([1.0, 2.0, 9.0], [0.0, 0.0, 3.0])
    labels = tensor([0.0, 4.0, 0.0], [0.0, 0.0, 0.0])
    assert score_loss(scores, labels, KNOWN).item() == pytest.approx(((1 + 4) / 2 + 9 / 3) / 2)


def test_each_sample_must_do_with_its_share():
    retained = tensor([1.0, 0.5, 1.0], [0.0, 0.3, 0.3])
    expected = ((0.75 - 0.25) ** 2 + (0.2 - 0.25) ** 2) / 2
    assert retention_loss(retained, KNOWN, 0.25).item() == pytest.approx(expected, rel=1e-5)
    nobody = torch.zeros(2, 3).bool()
    assert retention_loss(retained, nobody, 0.25).item() == 0


def test_indecision_is_largest_at_a_half():
    retained = tensor([0.5, 0.5, 0.5], [0.0, 1.0, 0.2])
    expected = (0.25 + 0.16 / 3) / 2
    assert indecision_loss(retained, KNOWN).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [score_loss, ranking_loss])
def test_a_reduction_sees_sums_and_counts_of_samples(loss):
    """Two processes with the same batch: twice the sum over twice the samples."""
    scores = tensor([1.0, 2.0, 0.0], [0.0, 0.0, 3.0])
    labels = tensor([0.5, 0.5, 0.0], [0.2, 0.3, 0.5])
    seen = []

    def reduce(value: torch.Tensor) -> torch.Tensor:
        seen.append(value.item())
        return 2 * value

    alone = loss(scores, labels, KNOWN)
    assert loss(scores, labels, KNOWN, reduce=reduce).item() == pytest.approx(alone.item())
    assert seen == [pytest.approx(2 * alone.item()), 2.0]


def test_labels_of_attention_by_hand():
    attention = tensor([1.0, 2.0, 5.0, 99.0])
    alive, counts = torch.tensor([[1, 1, 1, 0]]).bool(), torch.tensor([1])
    # shares 1/8, 2/8, 5/8: the cut lies between the last two
    for form, values in (
        ("share", [1 / 8, 2 / 8, 5 / 8]),
        ("log", [math.log(1 / 8), math.log(2 / 8), math.log(5 / 8)]),
        ("rank", [1.0, 2.0, 3.0]),
    ):
        mean = sum(values) / 3
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 3)
        level = (values[1] + values[2]) / 2
        expected = [(v - level) / spread for v in values] + [0.0]
        found = attention_labels(attention, alive, counts, form)[0].tolist()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    default, log = (attention_labels(attention, alive, counts, *form) for form in ((), ("log",)))
    assert torch.equal(default, log)


def test_attention_that_is_as_good_as_none_has_the_least_logarithm():
    alive, counts = torch.ones(1, 3).bool(), torch.tensor([1])
    tiny, none = (attention_labels(tensor([1.0, 1e-3, x]), alive, counts) for x in (1e-12, 0.0))
    torch.testing.assert_close(tiny, none)


def test_labels_of_relevance_are_squared_shares():
    relevance = tensor([1.0, 3.0, 7.0], [0.0, 0.0, 0.0], [1e-4, 2e-4, 0.0])
    alive = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    found = relevance_labels(relevance, alive)
    expected = tensor([0.1, 0.9, 0.0], [0.0, 0.0, 0.0], [0.2, 0.8, 0.0])
    torch.testing.assert_close(found, expected)


def test_a_sink_receives_more_than_a_multiple_of_the_mean():
    attention, alive = tensor([1.0, 1.0, 10.0, 90.0]), torch.tensor([[1, 1, 1, 0]]).bool()
    assert sinks(attention, alive, 2.4).tolist() == [[False, False, True, False]]
    assert not sinks(attention, alive, 2.5).any()  # the mean is 4, and ten is not more
    assert not sinks(attention, alive & False, 2.0).any()


def test_relevance_in_no_layer_is_a_table_of_no_layer():
    trace = Trace(visual_valid=torch.ones(2, 3).bool())
    assert relevance(trace, torch.tensor(0.0)).shape == (2, 0, 3)
