"""What is chosen, on numbers small enough to do it by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from rcp.backbones.places import image_runs
from rcp.choosing.greedy import NOBODY, cosines, greedy, max_min, normalised, rows_at
from rcp.choosing.merging import (
    Contextual,
    cluster_mean,
    merge_rows,
    nearest_mean,
    unmerged,
    weighted_sum,
)
from rcp.choosing.positions import columns_of, take_rows
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.roles import run_of, square_places
from rcp.choosing.schedule import Published, Schedule, mean_ratio_of, schedule_for
from rcp.choosing.selection import cut, retention, straight_through, threshold, top_k
from rcp.choosing.tokens import (
    IGNORED,
    OnHost,
    build_token_map,
    continuation_map,
    one_more_token,
    predicting,
)
from rcp.choosing.view import mean_over_question, total_attention
from rcp.errors import UserError

NAN = math.nan


def marks(*rows: str) -> torch.Tensor:
    """``marks("x.x")`` is [[True, False, True]]."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


# -- scores to a choice --------------------------------------------------------------------------


def test_a_nan_is_never_kept_before_a_number():
    scores = torch.tensor([[NAN, -5.0, NAN, -math.inf, 2.0]])
    alive = marks("xxxxx")
    for count, expected in ((1, "....x"), (2, ".x..x"), (3, "xx..x"), (5, "xxxxx")):
        # below all numbers nothing is told apart, and ties go to the earlier token
        assert torch.equal(top_k(scores, alive, torch.tensor([count])), marks(expected))
    assert torch.equal(threshold(scores, alive), marks("....x"))


def test_a_nan_in_one_row_leaves_the_others_alone():
    scores = torch.tensor([[NAN, NAN, NAN], [1.0, 3.0, 2.0]])
    counts = torch.tensor([1, 2])
    assert torch.equal(top_k(scores, marks("xxx", "xxx"), counts), marks("x..", ".xx"))


def test_a_nan_score_is_seen_in_the_gradient_and_not_hidden():
    scores = torch.tensor([[NAN, 1.0, 0.0]], requires_grad=True)
    keep, alive = marks(".x."), marks("xxx")
    gate = straight_through(scores, keep, alive, Relaxation(), centred=False)
    assert gate.isnan().tolist() == [[True, False, False]]


def test_half_precision_scores_are_ranked_in_full():
    scores = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert torch.equal(top_k(scores, marks("xxx"), torch.tensor([2])), marks(".xx"))


def test_the_cut_lies_midway_and_at_an_extreme_where_there_is_no_other_side():
    scores = torch.tensor([[4.0, 1.0, 3.0, 9.0]])
    assert cut(scores, marks("x..."), marks("xxx.")).item() == 3.5
    assert cut(scores, marks("xxx."), marks("xxx.")).item() == 1.0
    assert cut(scores, marks("...."), marks("xxx.")).item() == 4.0
    assert cut(scores, marks("...."), marks("....")).item() == 0.0
    endless = torch.full((1, 2), math.inf)
    assert cut(endless, marks("x."), marks("xx")).item() == 0.0
    wanting = scores.clone().requires_grad_()
    assert not cut(wanting, marks("x..."), marks("xxx.")).requires_grad


def test_the_straight_through_gradient_is_the_slope_of_a_sigmoid():
    scores = torch.tensor([[0.4, -0.2, 1.0]], requires_grad=True)
    keep, alive = marks("x.."), marks("xx.")
    for centred, level in ((False, 0.0), (True, 0.1)):
        relaxation = Relaxation(temperature=0.5)
        value = straight_through(scores, keep, alive, relaxation, centred=centred)
        assert value.tolist() == [[1.0, 0.0, 0.0]] and value.dtype == torch.float32
        (gradient,) = torch.autograd.grad((value * torch.tensor([[3.0, -2.0, 7.0]])).sum(), scores)
        shares = [1 / (1 + math.exp(-(z - level) / 0.5)) for z in (0.4, -0.2)]
        slopes = [share * (1 - share) / 0.5 for share in shares]
        expected = [3 * slopes[0], -2 * slopes[1], 0.0]
        assert gradient[0].tolist() == pytest.approx(expected, rel=1e-5)
        soft = retention(scores, keep, alive, relaxation, centred=centred)
        assert soft[0].tolist() == pytest.approx([*shares, 0.0], rel=1e-5)


def test_a_relaxation_is_hard_and_silent_unless_asked():
    plain = Relaxation()
    assert (plain.temperature, plain.noise, plain.margin, plain.hard) == (1.0, 0.0, None, True)


def test_noise_is_the_logit_of_a_uniform_draw():
    scores = torch.zeros(1, 3)
    torch.manual_seed(4)
    noisy = Relaxation(noise=2.0).perturb(scores + 1)
    torch.manual_seed(4)
    draw = torch.rand(1, 3)
    torch.testing.assert_close(noisy, 1 + 2.0 * torch.logit(draw), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_noise_is_finite_at_the_ends_of_the_draw(edge: float, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.full(shape, edge))
    noise = Relaxation(noise=1.0).perturb(torch.zeros(1, 1)).item()
    assert abs(noise) == pytest.approx(math.log(1e6), rel=0.01)
    assert (noise > 0) == (edge == 1.0)


# -- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, tokens, count",
    [
        (0.5, 5, 3), (0.5, 3, 2), (0.25, 2, 1), (0.3, 5, 2), (0.1, 4, 1), (0.1, 14, 1),
        (0.1, 15, 2), (0.249, 10, 2), (0.25, 10, 3), (1.0, 7, 7), (0.001, 1, 1), (0.0, 9, 0),
        (0.7, 0, 0),
    ],
)
def test_counts_are_rounded_half_up_and_at_least_one(ratio: float, tokens: int, count: int):
    assert Schedule((0,), (ratio,), 2).count(0, tokens) == count


def test_what_a_schedule_is_made_of():
    schedule = Schedule((2, 5), (0.5, 0.1), 10)
    assert schedule.spans == (2, 3, 5)
    assert schedule.mean_ratio == pytest.approx((2 * 1 + 3 * 0.5 + 5 * 0.1) / 10)
    assert [schedule.stage_over(at) for at in (0, 1, 2, 4, 5, 9)] == [None, None, 0, 0, 1, 1]
    assert schedule.decay == pytest.approx(0.2)
    assert Schedule((0, 1, 2), (0.8, 0.5, 0.2), 4).decay == pytest.approx(0.5)
    assert Schedule((0,), (0.8,), 4).decay is None
    assert Schedule((0, 1), (0.8, 0.0), 4).decay is None
    assert Schedule((0, 3), (0.5, 0.5), 4).count(1, 4) == 2  # the last layer may prune, too


@pytest.mark.parametrize(
    "layers, ratios, message",
    [
        ((0, 1), (0.5,), "2 layers but 1 ratios"),
        ((1, 1), (0.5, 0.5), "must rise"),
        ((4,), (0.5,), "layer 4 is outside.* 0 to 3 are"),
        ((-1,), (0.5,), "layer -1 is outside"),
        ((0, 1), (0.2, 0.3), "Lower 0.3"),
        ((0,), (1.1,), "Lower 1.1"),
        ((0,), (-0.1,), "Lower -0.1"),
    ],
)
def test_schedules_that_cannot_be_say_why(layers, ratios, message: str):
    with pytest.raises(UserError, match=message):
        Schedule(layers, ratios, 4)


def test_a_budget_is_spent_by_a_shape_that_falls():
    # 12 layers: 1 keeps all, spans 4, 4, 3; shares fall by sqrt(0.1) to a tenth
    schedule = schedule_for(0.3, (1, 5, 9), 12)
    step = 0.1**0.5
    first = (0.3 * 12 - 1) / (4 + 4 * step + 3 * step**2)
    assert schedule.ratios == pytest.approx((first, first * step, first * step**2))
    # with room for more the first stage keeps all, and the others share what is left
    wide = schedule_for(0.75, (1, 5, 9), 12, decay=0.5)
    left = 0.75 * 12 - 1 - 4
    second = left * 0.5 / (4 * 0.5 + 3 * 0.25)
    assert wide.ratios == pytest.approx((1.0, second, second / 2))
    assert schedule_for(1.0, (1, 5), 12).ratios == (1.0, 1.0)
    assert schedule_for(0.25, (0,), 12).ratios == pytest.approx((0.25,))
    with pytest.raises(UserError, match="out of reach"):
        schedule_for(0.25, (3,), 12)


def test_a_budget_is_a_share_below_one_and_a_count_from_there_on():
    assert mean_ratio_of(0.25, None) == 0.25
    assert mean_ratio_of(1, 4) == 0.25 and mean_ratio_of(4, 4) == 1.0
    for budget, tokens in ((0, 4), (-0.5, 4), (5, 4)):
        with pytest.raises(UserError, match="1 to 4 are"):
            mean_ratio_of(budget, tokens)
    with pytest.raises(UserError, match="varies with the image"):
        mean_ratio_of(1, None)


def test_published_layers_keep_apart_in_a_shallow_decoder():
    published = Published("a paper", 32, (0, 2, 3, 16), (0.9, 0.5, 0.3, 0.1))
    assert published.layers_in(32) == (0, 2, 3, 16)
    assert published.layers_in(16) == (0, 1, 2, 8)
    assert published.layers_in(4) == (0, 1, 2, 3)  # 0, 0.25, 0.375 and 2


# -- one by one ----------------------------------------------------------------------------------


def test_picks_by_hand():
    first = torch.tensor([[3.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    alive, seen = marks("xxx.", "xxxx"), []

    def after(pick: torch.Tensor) -> torch.Tensor:
        seen.append(pick.tolist())
        first.scatter_(1, pick[:, None], NOBODY)
        return first.masked_fill(~alive, NOBODY)

    picked = greedy(first, after, alive, torch.tensor([2, 1]), 2)
    assert torch.equal(picked, marks(".xx.", "...x"))
    assert seen == [[1, 3]]  # of equals the earlier; the last pick changes nothing any more


def test_no_pick_is_made_of_nothing():
    def after(pick: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing was picked")

    nothing = greedy(torch.zeros(2, 3), after, marks("xxx", "xxx"), torch.tensor([0, 0]), 0)
    assert nothing.shape == (2, 3) and not nothing.any()
    none_there = marks("", "")
    empty = greedy(torch.zeros(2, 0), after, none_there, torch.tensor([1, 1]), 1)
    assert empty.shape == (2, 0)


def test_cosines_by_hand_and_of_a_zero_vector():
    vectors = torch.tensor([[[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [-6.0, -8.0]]])
    found = cosines(vectors)
    assert found.dtype == torch.float64
    expected = [[1, 0.96, 0, -1], [0.96, 1, 0, -0.96], [0, 0, 0, 0], [-1, -0.96, 0, 1]]
    assert found[0].tolist() == expected  # exactly: rounded to nine digits
    assert normalised(vectors)[0, 0].tolist() == pytest.approx([0.6, 0.8])
    assert cosines(torch.tensor([[[1.0, 0.0], [1.0, 3e-5]]]))[0, 0, 1] == 1  # less 4.5e-10


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_are_those_of_their_own_sample(batch: int):
    matrix = torch.arange(batch * 9).reshape(batch, 3, 3)
    index = torch.tensor([2, 1])[:batch]
    expected = [[6, 7, 8], [12, 13, 14]][:batch]
    assert rows_at(matrix)(index).tolist() == expected


def test_the_farthest_comes_next():
    places = torch.tensor([[0.0, 1.0, 4.0, 9.0, 100.0]])
    distance = (places[:, :, None] - places[:, None]).abs()
    alive = marks("xxxx.")
    first, after = max_min(distance, alive)
    assert first[0, :4].tolist() == [1.0, 1.0, 3.0, 5.0]
    worth = after(torch.tensor([3]))[0]
    assert worth[:3].tolist() == [9.0, 8.0, 5.0] and worth[3:].tolist() == [NOBODY, NOBODY]
    worth = after(torch.tensor([0]))[0]
    assert worth.tolist() == [NOBODY, 1.0, 4.0, NOBODY, NOBODY]


# -- folding -------------------------------------------------------------------------------------


def test_weights_of_what_is_left_as_it_is():
    weights = unmerged(marks(".x.x", "..x."), 2)
    assert weights[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert weights[1].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    changed = weighted_sum(weights, torch.tensor([[3], [2]]), torch.full((2, 4), 0.25))
    assert changed[0].tolist() == [[0, 1, 0, 0], [0.25] * 4]
    assert changed[1].tolist() == [[0.25] * 4, [0, 0, 0, 0]]


LIKENESS = torch.tensor([[
    [1.0, 0.9, 0.1, 0.2], [0.9, 1.0, 0.3, 0.4], [0.1, 0.3, 1.0, 0.8], [0.2, 0.4, 0.8, 1.0],
]])


def test_guests_join_whom_they_are_most_like():
    keep, targets, guests = marks("x.x."), marks("x.x."), marks(".x.x")
    nearest = nearest_mean(unmerged(keep, 2), targets, guests, LIKENESS)
    assert nearest[0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    clusters = cluster_mean(unmerged(keep, 2), targets, guests, LIKENESS)
    assert clusters[0].tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    one = marks("x...")
    alone = nearest_mean(unmerged(one, 1), one, marks(".xxx"), LIKENESS)
    assert alone[0, 0].tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    alone = cluster_mean(unmerged(one, 1), one, marks(".xxx"), LIKENESS)
    assert alone[0, 0].tolist() == [0.25] * 4
    nobody = nearest_mean(unmerged(keep, 2), marks("...."), guests, LIKENESS)
    assert torch.equal(nobody, unmerged(keep, 2))


def test_folded_rows_are_weighted_sums_in_the_slots_of_the_kept():
    hidden = torch.tensor([[[9.0], [1.0], [2.0], [4.0]], [[9.0], [1.0], [2.0], [4.0]]])
    rows = torch.tensor([[1, 2, 3], [1, 2, 3]])
    keep = marks("x.x", ".x.")
    weights = torch.tensor([[[1, 0.5, 0], [0, 0.5, 1]], [[1, 1, 1], [0, 0, 0.0]]])
    merged = merge_rows(hidden, rows, keep, weights)
    assert merged[..., 0].tolist() == [[9, 2, 2, 5], [9, 1, 7, 4]]
    untouched = merge_rows(hidden, rows, marks("...", "..."), torch.zeros(2, 2, 3))
    assert torch.equal(untouched, hidden)


def test_contextual_targets_are_every_nth_of_the_rest():
    scores = torch.tensor([[9.0, 1, 8, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6, 7, 8]])
    split = Contextual.of(scores, marks("xxxxxxxx", "xxxx...."), torch.tensor([4, 2]), 0.5)
    assert torch.equal(split.dominant, marks("x.x.....", "...x...."))
    # six are left for two targets, a third step apart; three for one
    assert torch.equal(split.targets, marks(".x...x..", "x......."))
    assert torch.equal(split.kept, marks("xxx..x..", "x..x...."))
    alone = Contextual.of(scores, marks("xxxxxxxx", "xxxx...."), torch.tensor([3, 3]), 0.0)
    assert torch.equal(alone.targets, marks("........", "........"))
    assert torch.equal(alone.kept, marks("x.x....x", ".xxx...."))


# -- roles ---------------------------------------------------------------------------------------


def test_columns_in_order_and_fillers_marked():
    columns, real = columns_of(marks(".x.x", "..x."), 2)
    assert columns[0].tolist() == [1, 3] and columns[1, 0] == 2
    assert torch.equal(real, marks("xx", "x."))
    assert take_rows(torch.arange(8).reshape(2, 4), columns)[0].tolist() == [1, 3]
    shared = take_rows(torch.arange(8).reshape(1, 4, 2), torch.tensor([[3], [0]]))
    assert shared.tolist() == [[[6, 7]], [[0, 1]]]


def test_images_are_numbered_in_their_row():
    assert image_runs(marks(".xx.x", "x..xx")).tolist() == [[-1, 0, 0, -1, 1], [0, -1, -1, 1, 1]]


def test_places_of_a_square_and_of_a_row():
    runs = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    grid = square_places(runs.numpy(), marks("xxxxxxx").numpy())[0]
    assert grid[:4].tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert grid[4:].flatten().tolist() == pytest.approx([0, -2 / 3, 0, 0, 0, 2 / 3], abs=1e-6)


def test_slots_that_do_not_exist_belong_to_no_image():
    grid = square_places(np.array([[0, 1, 1, 1, 1, 1]]), marks("xxxxx.").numpy())
    assert grid[0, :5].tolist() == [[0, 0], [-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]


def test_a_family_that_knows_says_where_its_tokens_are():
    tokens = build_token_map(marks(".x.x", "..x."), marks("xxxx", "xxxx"))
    index = torch.tensor([[9, 4, 9, 5], [9, 9, 6, 9]])
    grid = torch.arange(16.0).reshape(2, 4, 2)
    placed = tokens.placed(index, grid)
    assert placed.image_index[0].tolist() == [4, 5] and placed.image_index[1, 0] == 6
    assert placed.grid[0].tolist() == [[2, 3], [6, 7]] and placed.grid[1, 0].tolist() == [12, 13]


def test_roles_with_labels_with_an_end_and_with_neither():
    image, valid = marks("..xx....", ".xx....."), marks("xxxxxxxx", "xxxxxxx.")
    labels = torch.full((2, 8), IGNORED)
    labels[0, 6:], labels[1, 5:7] = 3, 4
    tokens = build_token_map(image, valid, labels=labels)
    assert torch.equal(tokens.question, marks("....xx..", "...xx..."))
    assert torch.equal(tokens.answer, marks(".....xx.", "....xx.."))
    assert tokens.host.visual_counts == (2, 2) and tokens.host.valid_counts == (8, 7)
    unlabelled = build_token_map(image, valid, labels=torch.full((2, 8), IGNORED))
    assert not unlabelled.answer.any()
    assert torch.equal(unlabelled.question, marks("....xxxx", "...xxxx."))
    ended = build_token_map(image, valid, prompt_end=torch.tensor([6, 5]))
    assert torch.equal(ended.question, tokens.question)
    assert torch.equal(ended.answer, marks(".....xxx", "....xxx."))
    whole = build_token_map(image, valid)
    assert torch.equal(whole.question, marks("....xxxx", "...xxxx."))
    assert torch.equal(whole.answer, marks(".......x", "......x."))
    assert whole.has_images
    assert torch.equal(predicting(labels), marks(".....xx.", "....xx.."))


def test_a_batch_of_text_gets_one_dead_slot_where_one_is_needed():
    tokens = build_token_map(marks("...", "..."), marks("xxx", "xxx"))
    assert tokens.visual_columns.shape == (2, 0) and not tokens.has_images
    assert tokens.question.all()  # its first word, too
    slot = tokens.with_a_slot()
    assert slot.visual_columns.tolist() == [[0], [0]] and not slot.visual_valid.any()
    assert slot.image_index.tolist() == [[-1], [-1]] and slot.grid.isnan().all()
    assert slot.grid.shape == (2, 1, 2) and slot.with_a_slot() is slot


def test_a_continuation_of_candidates_predicts_from_the_last_columns():
    tokens = continuation_map(marks("xxxx", "xxxx"), 3)
    assert torch.equal(tokens.answer, marks(".xxx", ".xxx"))
    assert tokens.answer_columns.tolist() == [[1, 2, 3]] * 2 and tokens.answer_valid.all()
    assert tokens.host.valid_counts == (4, 4) and tokens.host.visual_counts == (0, 0)
    one = continuation_map(marks("xxx.", "xxxx"))
    assert one.answer_columns.tolist() == [[2], [3]]


def test_attention_is_a_mean_over_heads_and_real_rows():
    weights = torch.zeros(2, 4, 3, 2)
    weights[0, 0, 0], weights[0, 1, 1] = torch.tensor([1.0, 2]), torch.tensor([3.0, 6])
    assert total_attention(weights)[0].tolist() == [4, 8]
    found = mean_over_question(weights, marks("xx.", "..."))
    assert found.tolist() == [[0.5, 1], [0, 0]] and found.dtype == torch.float32


def test_what_the_host_knows_of_a_batch_is_what_its_rows_say():
    image, valid = marks("..xx..", ".xx..."), marks(".xxxxx", "xxxxxx")
    labels = torch.full((2, 6), IGNORED)
    labels[0, 5], labels[1, 4:] = 1, 1
    host = build_token_map(image, valid, labels=labels).host
    assert host.visual_counts == (2, 2) and host.valid_counts == (5, 6)
    assert host.question_counts == (1, 1) and host.answer_counts == (1, 2)
    assert host.all_placed
    assert (host.visual_run, host.question_run, host.answer_run) == (None, None, None)


def test_columns_are_a_run_only_if_each_sample_has_the_same_ones_without_a_gap():
    image, valid = marks(".xx..", ".xx.."), marks("xxxxx", "xxxxx")
    host = build_token_map(image, valid, prompt_end=torch.tensor([4, 4])).host
    assert (host.visual_run, host.question_run) == (range(1, 3), range(3, 4))
    assert host.answer_run == range(3, 5)
    everywhere = np.ones((1, 2), bool)
    assert run_of(np.array([[1, 3]]), everywhere) is None
    assert run_of(np.array([[1, 2]]), np.array([[True, False]])) is None


def test_a_prompt_of_one_token_answers_from_it():
    nothing = marks(".", ".")
    found = build_token_map(nothing, marks("x", "."))
    assert found.answer.tolist() == [[True], [False]]
    assert found.question.tolist() == [[True], [False]]
    padded = build_token_map(marks("..."), marks("x.."))
    assert padded.answer.tolist() == [[True, False, False]]


def test_a_whole_question_is_a_mean_over_heads_and_rows():
    weights = torch.tensor([[[[1.0, 0.0], [2.0, 3.0]], [[3.0, 0.0], [6.0, 1.0]]]])  # heads of 2
    assert mean_over_question(weights, None).tolist() == [[3.0, 1.0]]
    assert mean_over_question(weights[:, :, :0], None).tolist() == [[0.0, 0.0]]


def test_slots_of_a_continuation_are_marked_not_counted():
    found = continuation_map(marks("xxx"), predicting=2)
    assert found.answer_columns.tolist() == [[1, 2]]
    assert found.answer_valid.dtype == torch.bool and found.answer_valid.all()


def test_one_more_token_is_a_continuation_of_one_column():
    found = one_more_token(2, torch.device("cpu"))
    plain = continuation_map(marks("x", "x"))
    for field in fields(plain):
        here, there = getattr(found, field.name), getattr(plain, field.name)
        if isinstance(there, torch.Tensor):
            assert here.dtype == there.dtype and torch.equal(here, there), field.name
    assert replace(found.host, answer_run=None) == plain.host
    assert plain.host == OnHost((0, 0), (0, 0), (1, 1), (1, 1))
    assert found.host.answer_run == range(1)
