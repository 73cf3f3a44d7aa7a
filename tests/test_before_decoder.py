"""Methods that choose before the decoder, each against its definition written out."""

import pytest
import torch

from rcp.choosing.greedy import cosines, greedy, max_min
from rcp.choosing.merging import Contextual, merge_rows, nearest_mean, unmerged
from rcp.pruners import PRUNERS
from rcp.pruners.agilepruner import effective_rank
from tests.views import WIDTH, make_view


def select(name, view, count, **arguments):
    """Indices that ``name`` keeps of the first sample."""
    pruner = PRUNERS.get(name)(WIDTH, **arguments)
    counts = torch.full((len(view.alive),), count)
    return pruner.select(view, counts)[0].nonzero()[:, 0].tolist()


def max_min_by_definition(vectors, count):
    """Distances to all kept tokens anew for each pick."""
    vectors = vectors.double()
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    tokens = range(len(vectors))
    kept = [max(tokens, key=lambda i: min(distance[i, j] for j in tokens if j != i))]
    while len(kept) < count:
        rest = [i for i in tokens if i not in kept]
        kept.append(max(rest, key=lambda i: min(distance[i, j] for j in kept)))
    return sorted(kept)


@pytest.mark.parametrize("seed", range(200))
def test_divprune_is_its_definition_index_for_index(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = int(torch.randint(2, 25, (), generator=generator))
    count = int(torch.randint(1, tokens + 1, (), generator=generator))
    view = make_view(1, tokens, "random", seed)
    assert select("divprune", view, count) == max_min_by_definition(view.projected[0], count)


def test_holov_shares_the_budget_out_to_crops():
    view = make_view(1, 40, "random", 3)
    attention = torch.full((1, 40), 0.001)
    attention[0, 8:16] = torch.arange(8) / 100  # crop 1 of 5 holds nearly all the attention
    view = type(view)(**vars(view) | {"vision_cls_attention": attention})
    kept = select("holov", view, 15, crops=5, diversity=0.0)
    by_crop = [sum(start <= i < start + 8 for i in kept) for start in range(0, 40, 8)]
    share = attention.view(5, 8).mean(1)
    quota = torch.minimum((15 * share / share.sum()).floor(), torch.tensor(8.0)).tolist()
    assert quota == [0, 8, 0, 0, 0]
    assert by_crop == [2, 8, 2, 2, 1]  # what is left goes to the best crops, the earlier first
    few = select("holov", view, 3, crops=5, diversity=0.0)
    assert few == [13, 14, 15], "inside a crop the attention ranks"


def test_holov_counts_variance_when_asked_to():
    view = make_view(1, 32, "random", 4)
    plain = select("holov", view, 8, crops=4, diversity=50.0)
    assert plain != select("holov", view, 8, crops=4, diversity=50.0, combined=True)


def test_zoo_prune_prefers_what_the_projector_is_sensitive_to():
    view = make_view(1, 12, "random", 5)

    def projector(tokens):  # moves a hundred times farther where the first channel is positive
        return tokens * torch.where(tokens[..., :1] > 0, 100.0, 1.0)

    view = type(view)(**vars(view) | {"projector": projector})
    sensitive = (view.encoder_tokens[0, :, 0] > 0).nonzero()[:, 0].tolist()
    kept = select("zoo_prune", view, min(3, len(sensitive)))
    assert set(kept) <= set(sensitive)


def test_agilepruner_kills_near_duplicates_and_calls_them_back():
    view = make_view(1, 8, "pairs", 6)
    order = view.vision_cls_attention[0]
    assert torch.equal(order[::2], order[1::2])
    assert all(i % 2 == 0 for i in select("agilepruner", view, 4)), "one of each pair"
    assert select("agilepruner", view, 8) == list(range(8))
    by_attention = order.argsort(descending=True, stable=True)
    assert select("agilepruner", view, 6, average_erank=1e-9) == sorted(
        by_attention[:6].tolist()
    ), "where the first kills all others, attention decides"


def test_effective_rank_counts_directions():
    assert effective_rank(torch.eye(6)[None]).item() == pytest.approx(6)
    line = torch.randn(1, 9, 1) * torch.randn(1, 1, 5)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.cat([torch.eye(4), torch.zeros(3, 4)])[None]).item() == (
        pytest.approx(4)
    )


def test_mmtok_covers_by_definition():
    view = make_view(1, 10, "random", 7)

    def unit(vectors):
        return torch.nn.functional.normalize(vectors[0].double(), dim=-1)

    text = (unit(view.question_embeds) @ unit(view.projected).T / 0.02).softmax(-1)
    image = (unit(view.encoder_tokens) @ unit(view.encoder_tokens).T / 0.2).softmax(-1)
    cover = torch.cat([text / len(text), 0.5 * image / len(image)])
    kept = []
    while len(kept) < 4:
        rest = [i for i in range(10) if i not in kept]
        kept.append(max(rest, key=lambda i: cover[:, [*kept, i]].amax(1).sum()))
    assert select("mmtok", view, 4) == sorted(kept)


def test_todre_adds_what_is_least_like_all_kept():
    view = make_view(1, 12, "random", 8)
    cosine = cosines(view.encoder_tokens)[0]
    kept = [int(view.vision_cls_attention[0].argmax())]
    while len(kept) < 5:
        rest = [i for i in range(12) if i not in kept]
        kept.append(min(rest, key=lambda i: cosine[i, kept].sum()))
    assert select("todre", view, 5) == sorted(kept)
    without = type(view)(**vars(view) | {"vision_cls_attention": None})
    first, second = (select("todre", without, 1, seed=seed) for seed in (0, 3))
    assert first != second, "without [CLS] the first token is random"


def test_evit_fuses_what_it_drops():
    view = make_view(2, 9, "random", 9)
    pruner = PRUNERS.get("evit")(WIDTH)
    keep = pruner.select(view, torch.tensor([3, 9]))
    merged = merge_rows(view.visual, view.rank, keep, pruner.merge(view, keep))
    order = view.vision_cls_attention[0].argsort(descending=True)
    carrier, rest = order[2], order[2:]
    fused = (view.vision_cls_attention[0, rest, None] * view.visual[0, rest]).sum(0)
    assert torch.allclose(merged[0, carrier], fused, atol=1e-6)
    untouched = [i for i in range(9) if i != carrier]
    assert torch.equal(merged[0, untouched], view.visual[0, untouched])
    assert torch.equal(merged[1], view.visual[1]), "nothing dropped, nothing fused"


def test_visiondrop_targets_take_in_what_is_most_like_them():
    view = make_view(1, 20, "random", 10)
    pruner = PRUNERS.get("visiondrop_encoder")(WIDTH, contextual=0.5)
    keep = pruner.select(view, torch.tensor([8]))
    order = view.vision_cls_attention[0].argsort(descending=True)
    dominant = order[:4].tolist()
    rest = [i for i in range(20) if i not in dominant]
    targets = rest[0:16:4]
    assert keep[0].nonzero()[:, 0].tolist() == sorted([*dominant, *targets])
    cosine = cosines(view.encoder_keys)[0]
    merged = merge_rows(view.visual, view.rank, keep, pruner.merge(view, keep))
    for target in targets:
        guests = [i for i in rest if i not in targets
                  and max(targets, key=lambda t: cosine[i, t]) == target]
        expected = view.visual[0, target] + (
            view.visual[0, guests].mean(0) if guests else torch.zeros(WIDTH)
        )
        assert torch.allclose(merged[0, target], expected, atol=1e-6)
    assert torch.equal(merged[0, dominant], view.visual[0, dominant])


def test_merging_leaves_other_rows_and_fillers_alone():
    hidden = torch.randn(2, 7, 4)
    rows = torch.tensor([[0, 2, 3, 5], [0, 2, 0, 0]])  # the second sample has two tokens
    keep = torch.tensor([[True, False, True, True], [True, False, False, False]])
    likeness = torch.rand(2, 4, 4)
    guests = torch.tensor([[False, True, False, False]] * 2)
    weights = nearest_mean(unmerged(keep, 3), keep, guests, likeness)
    merged = merge_rows(hidden, rows, keep, weights)
    assert torch.allclose(merged[1, 0], hidden[1, 0] + hidden[1, 2], atol=1e-6)
    host = rows[0, likeness[0, 1].masked_fill(~keep[0], -1).argmax()]
    assert torch.allclose(merged[0, host], hidden[0, host] + hidden[0, 2], atol=1e-6)
    changed = (merged != hidden).any(-1)
    assert changed.sum(1).tolist() == [1, 1]
    nothing = torch.zeros_like(keep)
    assert torch.equal(merge_rows(hidden, rows, nothing, unmerged(nothing, 3)), hidden)


def test_greedy_keeps_nothing_where_nothing_is_wanted():
    alive = torch.tensor([[True, True, False], [True, False, False]])
    first, after = max_min(1 - cosines(torch.randn(2, 3, 4)), alive)
    assert greedy(first, after, alive, torch.tensor([2, 0]), 2).sum(1).tolist() == [2, 0]
    assert not greedy(first, after, alive, torch.tensor([0, 0]), 0).any()


def test_contextual_tokens_are_exact_in_number():
    scores, alive = torch.rand(3, 30), torch.rand(3, 30) > 0.3
    counts = torch.tensor([1, 10, int(alive[2].sum())])
    split = Contextual.of(scores, alive, counts, 0.4)
    assert split.kept.sum(1).tolist() == counts.tolist()
    assert not (split.dominant & split.targets).any() and not (split.kept & ~alive).any()


def test_greedy_keeps_what_there_is_where_more_is_wanted():
    """A row without tokens left picks one again, in a batch where another row goes on."""
    alive = torch.tensor([[True, False, True, False], [True, True, True, True]])
    first, after = max_min(1 - cosines(torch.randn(2, 4, 3)), alive)
    assert torch.equal(greedy(first, after, alive, torch.tensor([4, 4]), 4), alive)
