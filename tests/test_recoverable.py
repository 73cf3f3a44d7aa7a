"""Recoverable Compression against its definition, token by token in plain loops."""

from dataclasses import replace

import pytest
import torch

from rcp.pruners import PRUNERS
from rcp.pruners.recoverable import outlier_counts, outliers, text_scores
from tests.views import WIDTH, make_view


def outliers_by_definition(values, members, most):
    """Numbers of the outliers among the ``members``; reachability and density one by one."""
    def near(p):
        others = [o for o in members if o != p]
        return sorted(others, key=lambda o: (abs(values[p] - values[o]), o))[:most]

    if len(members) < 2:
        return []

    def radius(o):
        return abs(values[o] - values[near(o)[-1]])

    def density(p):
        reach = [max(radius(o), abs(values[p] - values[o])) for o in near(p)]
        return 1 / (sum(reach) / len(reach) + 1e-10)

    dense = {p: density(p) for p in members}
    factors = {p: sum(dense[o] for o in near(p)) / len(near(p)) / dense[p] for p in members}
    return [p for p in members if factors[p] > 1.5]


def best(values, among, count):
    return sorted(sorted(among, key=lambda i: (-values[i], i))[:count])


def counts_by_definition(attention, text, tokens):
    every = list(range(tokens))
    visual_count = len(outliers_by_definition(attention, every, 20))
    visual = best(attention, every, visual_count)
    low = [min(text) if i in visual else text[i] for i in every]
    others = [i for i in every if i not in visual]
    by_text = len(others) * len(outliers_by_definition(low, every, 20)) // tokens
    main = visual + best(low, others, by_text)
    rest = [i for i in every if i not in main]
    found = len(outliers_by_definition(attention, rest, 10))
    return visual_count, by_text, len(main) * found // max(1, len(rest))


def merged_by_definition(view, count):
    """The kept tokens, and what each is a sum of: weights (count, N)."""
    tokens = view.alive.shape[1]
    attention = view.vision_cls_attention[0].double().tolist()
    text = text_scores(view)[0].tolist()
    parts = counts_by_definition(attention, text, tokens)
    shared = max(1, count - 1)
    by_text, centres = (shared * part // max(1, sum(parts)) for part in parts[1:])
    every = list(range(tokens))
    visual = best(attention, every, shared - by_text - centres)
    main = visual + best(text, [i for i in every if i not in visual], by_text)
    rest = [i for i in every if i not in main]
    centre = best(attention, rest, centres)
    left = [i for i in rest if i not in centre]
    carrier = best(attention, left, count - shared)
    weights = torch.eye(tokens, dtype=torch.float64)
    if count not in (1, tokens):
        unit = torch.nn.functional.normalize(view.encoder_keys[0].double(), dim=1)
        like = (unit @ unit.T).tolist()
        for i in centre:
            worth = {j: like[i][j] + 50 * text[j] / 768**0.5 for j in rest if j != i}
            for j in sorted(worth, key=worth.get, reverse=True)[:32]:
                weights[i, j] = attention[j]
        weights[carrier[0]] = 0
        for j in left:
            weights[carrier[0], j] = attention[j]
    kept = sorted([*main, *centre, *carrier])
    return kept, weights[kept].float()


def view_of(seed):
    """Up to 70 tokens, of whose attention and projections some are far from the others."""
    generator = torch.Generator().manual_seed(seed)
    tokens = int(torch.randint(1, 70, (), generator=generator))
    view = make_view(1, tokens, "random", seed)
    attention = view.vision_cls_attention**4 / 100
    toward = torch.rand(1, tokens, 1, generator=generator) < 0.2
    projected = view.projected + 6 * toward * view.question_embeds.mean(1, keepdim=True)
    count = int(torch.randint(1, tokens + 1, (), generator=generator))
    return replace(view, vision_cls_attention=attention, projected=projected), count


@pytest.mark.parametrize("seed", range(100))
def test_it_is_its_definition(seed):
    view, count = view_of(seed)
    pruner = PRUNERS.get("recoverable")(WIDTH)
    keep = pruner.select(view, torch.tensor([count]))
    kept, weights = merged_by_definition(view, count)
    assert keep[0].nonzero()[:, 0].tolist() == kept
    assert torch.allclose(pruner.merge(view, keep)[0], weights, atol=1e-6)


def test_all_parts_are_met_by_those_cases():
    found = []
    for seed in range(100):
        view, _ = view_of(seed)
        found.append(outlier_counts(view.vision_cls_attention, text_scores(view), view.alive))
    assert all(sum(bool(counts[part]) for counts in found) >= 20 for part in range(3))


def test_outliers_by_hand():
    """One neighbour each: reaches 1, 1, 1 and 8, so the last is 8 times as thin as its neighbour.

    Dead tokens are nobody's neighbours, and one token has none.
    """
    values = torch.tensor([[0.0, 1.0, 2.0, 10.0], [0.0, 5.0, 1.0, 10.0], [3.0, 0.0, 0.0, 0.0]])
    members = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0]]).bool()
    assert outliers(values, members, 1).tolist() == [
        [False, False, False, True], [False, False, False, True], [False] * 4
    ]


@pytest.mark.parametrize("tokens, count", [(1, 1), (2, 1), (2, 2), (33, 1), (33, 33), (40, 39)])
@pytest.mark.parametrize("kind", ["random", "duplicates", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_shapes_keep_exactly_k_and_stay_finite(tokens, count, kind, dtype):
    view = make_view(2, tokens, kind, 1).mapped(
        lambda value: value.to(dtype) if value.is_floating_point() else value
    )
    pruner = PRUNERS.get("recoverable")(WIDTH)
    keep = pruner.select(view, torch.full((2,), count))
    weights = pruner.merge(view, keep)
    assert keep.sum(1).tolist() == [count, count] and weights.isfinite().all()
    if count in (1, tokens):
        assert torch.equal(weights.sum(2), torch.ones(2, count)), "nothing is merged"
