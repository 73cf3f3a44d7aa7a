"""Picks one by one, each against its definition written out pick by pick."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcp.choosing import greedy as choosing
from rcp.choosing.greedy import added, cosines, greedy, lowest, max_min, normalised, products
from rcp.choosing.selection import top_k
from rcp.pruners import PRUNERS, mmtok, zoo_prune
from rcp.pruners.agilepruner import effective_rank
from rcp.pruners.mmtok import coverage
from rcp.pruners.random import NUMBERS, draw
from rcp.pruners.todre import LAST
from tests.views import QUESTION, WIDTH, make_view

Worth = Callable[[list[int], int], float]
"""What a token is worth after the picks made so far."""


def picked(worth: Worth, alive: list[bool], count: int) -> list[bool]:
    """``count`` times the token of the largest worth, the earlier of equals."""
    picks: list[int] = []
    there = [token for token, lives in enumerate(alive) if lives]
    for _ in range(min(count, len(there))):
        rest = [token for token in there if token not in picks]
        picks.append(max(rest, key=lambda token: worth(picks, token)))
    return [token in picks for token in range(len(alive))]


def case(seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Who is alive (B, N), how many are wanted (B,), too many for some; and a generator."""
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = int(torch.randint(1, 4, (), generator=generator)), seed % 17 + 1
    alive = torch.rand(batch, tokens, generator=generator) > (0.3 if seed % 2 else -1)
    counts = torch.randint(0, tokens + 2, (batch,), generator=generator)
    return alive, counts, generator


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("rule", ["lowest", "added", "max_min", "coverage"])
def test_picks_are_those_of_the_definition(rule: str, seed: int):
    """Of whole numbers, few enough for many ties."""
    alive, counts, generator = case(seed)
    batch, tokens = alive.shape

    def whole(*shape: int, most: int = 6) -> Tensor:
        return torch.randint(0, most, shape, generator=generator).double()

    first, table, start = whole(batch, tokens), whole(batch, tokens, tokens), whole(batch, tokens)
    covers, weights = whole(batch, 5, tokens), whole(batch, 5)
    table = table + table.mT
    if rule == "lowest":
        after = lowest(table.clone(), alive)
    elif rule == "added":
        after = added(table.clone(), start, alive)
    elif rule == "max_min":
        first, after = max_min(table.clone(), alive)
    else:
        first, after = coverage(covers.clone(), weights, alive)
    found = greedy(first, after, alive, counts, int(counts.max()))

    for row in range(batch):
        there = alive[row].nonzero()[:, 0].tolist()

        def worth(picks: list[int], token: int) -> float:
            if rule == "coverage":
                best = covers[row][:, picks].amax(1) if picks else torch.zeros(5)
                return float((weights[row] * (covers[row][:, token] - best).clamp(min=0)).sum())
            if rule == "max_min" and not picks:
                others = [other for other in there if other != token]
                return min((float(table[row, token, other]) for other in others), default=math.inf)
            if not picks:
                return float(first[row, token])
            values = [float(table[row, pick, token]) for pick in picks]
            return float(start[row, token]) + sum(values) if rule == "added" else min(values)

        assert found[row].tolist() == picked(worth, alive[row].tolist(), int(counts[row]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["random", "duplicates", "pairs", "zeros"])
@pytest.mark.parametrize("name", ["divprune", "todre", "zoo_prune", "agilepruner", "mmtok"])
def test_methods_pick_by_their_definition(name: str, kind: str, dtype: torch.dtype):
    for seed in range(12):
        alive, counts, _ = case(seed)
        batch, tokens = alive.shape
        view = make_view(batch, tokens, kind, seed, alive=alive)
        half = {name: getattr(view, name).to(dtype) for name in
                ("projected", "encoder_tokens", "question_embeds")}
        view = replace(view, projector=lambda rows: rows.float().sin(), **half)
        pruner = PRUNERS.get(name)(WIDTH)
        found = pruner.select(view, counts)
        for row in range(batch):
            worth = DEFINITIONS[name](pruner, view, row)
            assert found[row].tolist() == picked(worth, alive[row].tolist(), int(counts[row]))


def of_divprune(pruner, view, row: int) -> Worth:
    cosine, there = cosines(view.projected)[row], view.alive[row].nonzero()[:, 0].tolist()

    def worth(picks: list[int], token: int) -> float:
        near = picks or [other for other in there if other != token]
        return min((1 - cosine[token, other].item() for other in near), default=math.inf)

    return worth


def of_todre(pruner, view, row: int) -> Worth:
    cosine, attention = cosines(view.encoder_tokens)[row], view.vision_cls_attention[row]
    nothing = ~view.encoder_tokens[row].any(-1)

    def worth(picks: list[int], token: int) -> float:
        if not picks:
            return attention[token].item() - nothing[token].item()
        total = LAST * nothing[token].item()
        for pick in picks:
            total += cosine[pick, token].item()
        return -total

    return worth


def of_zoo_prune(pruner, view, row: int) -> Worth:
    cosine, score = cosines(view.projected)[row], pruner._sensitivity(view)[row]

    def worth(picks: list[int], token: int) -> float:
        nearest = max((cosine[pick, token].item() for pick in picks), default=0)
        return score[token].item() * (1 - nearest)

    return worth


def of_agilepruner(pruner, view, row: int) -> Worth:
    tokens = view.encoder_tokens.double() * view.alive[..., None]
    cosine, attention = cosines(tokens)[row], view.vision_cls_attention[row]
    step = 0.01 * effective_rank(tokens)[row].item() / pruner.average_erank

    def worth(picks: list[int], token: int) -> float:
        near = any(1 - cosine[pick, token].item() < (number + 1) * step
                   for number, pick in enumerate(picks))
        return attention[token].item() - 1e6 * near

    return worth


def of_mmtok(pruner, view, row: int) -> Worth:
    alive = view.alive[row]
    text = normalised(view.question_embeds)[row] @ normalised(view.projected)[row].T
    image = cosines(view.encoder_tokens)[row]
    hidden = torch.where(alive, 0.0, -torch.inf)
    cover = torch.cat([
        (text / 0.02 + hidden).softmax(1) / QUESTION,
        0.5 * (image / 0.2 + hidden).softmax(1)[alive] / alive.sum(),
    ])

    def worth(picks: list[int], token: int) -> float:
        best = cover[:, picks].amax(1) if picks else torch.zeros(len(cover))
        return round((cover[:, token] - best).clamp(min=0).sum().item(), 9)

    return worth


DEFINITIONS = {"divprune": of_divprune, "todre": of_todre, "zoo_prune": of_zoo_prune,
               "agilepruner": of_agilepruner, "mmtok": of_mmtok}


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 12])
def test_each_pair_is_multiplied_once(tokens: int, monkeypatch):
    monkeypatch.setattr(choosing, "BLOCK", 3)
    vectors = torch.randn(2, tokens, 5, dtype=torch.float64)
    out = torch.full((2, tokens + 1, tokens), torch.nan, dtype=torch.float64)
    assert products(vectors, out=out[:, 1:]).data_ptr() == out[:, 1:].data_ptr()
    torch.testing.assert_close(out[:, 1:], vectors @ vectors.mT)
    assert torch.equal(out[:, 1:], out[:, 1:].mT) and out[:, 0].isnan().all()
    assert torch.equal(products(vectors), out[:, 1:])


def test_a_picture_wider_than_a_block_is_the_same(monkeypatch):
    vectors = torch.randn(1, choosing.BLOCK + 70, 32)
    whole = cosines(vectors)
    monkeypatch.setattr(choosing, "BLOCK", 100)
    assert torch.equal(cosines(vectors), whole)


def test_cosines_of_vectors_that_want_a_gradient_want_none():
    vectors = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    before = vectors.clone()
    assert not cosines(vectors).requires_grad and torch.equal(vectors, before)


@pytest.mark.parametrize("seed", range(10))
def test_covers_are_lowered_alike_on_the_host_and_elsewhere(seed: int, monkeypatch):
    alive, counts, generator = case(seed * 7 + 6)
    cover = torch.rand(*alive.shape[:1], 6, alive.shape[1], generator=generator).double()
    weights = torch.rand(len(alive), 6, generator=generator).double()
    most = int(counts.max())
    here = greedy(*coverage(cover, weights, alive), alive, counts, most)
    monkeypatch.setattr(mmtok, "_less_by_few", mmtok._less)
    assert torch.equal(greedy(*coverage(cover, weights, alive), alive, counts, most), here)


def test_a_cover_does_not_count_against_its_token():
    with pytest.raises(ValueError, match="image_weight"):
        PRUNERS.get("mmtok")(WIDTH, image_weight=-0.1)


@pytest.mark.parametrize("directions", [1, 5, 32])
def test_sensitivity_is_the_mean_way_along_the_directions(directions: int, monkeypatch):
    generator = torch.Generator().manual_seed(directions)
    view = replace(
        make_view(2, 6, "random", 2, alive=torch.arange(6) < torch.tensor([[6], [4]])),
        encoder_tokens=torch.randn(2, 6, 16, generator=generator),
        projector=lambda rows: rows.square() @ torch.ones(16, 3).tril(),
    )
    pruner = PRUNERS.get("zoo_prune")(WIDTH, directions=directions, step=0.2, seed=4)
    draws = torch.Generator().manual_seed(4)
    ways = torch.zeros(2, 6)
    for _ in range(directions):
        move = 0.2 * torch.randn(16, generator=draws)
        there, back = (view.projector(view.encoder_tokens + way) for way in (move, -move))
        ways += (there - back).norm(dim=-1)
    for row, alive in enumerate((6, 4)):
        way = ways[row, :alive] / ways[row, :alive].max()
        expected = (way - way.min()) / (1 - way.min())
        found = pruner._sensitivity(view)[row, :alive]
        torch.testing.assert_close(found.float(), expected, atol=2e-4, rtol=0)
    whole = pruner._sensitivity(view)
    monkeypatch.setattr(zoo_prune, "ROWS", 1)  # one direction at a time
    assert torch.equal(pruner._sensitivity(view), whole)


def test_top_k_is_a_stable_sort():
    special = torch.tensor([math.nan, math.inf, -math.inf, torch.finfo(torch.float32).max])
    for seed in range(200):
        alive, counts, generator = case(seed)
        scores = torch.randint(-2, 3, alive.shape, generator=generator).float()
        odd = torch.rand(alive.shape, generator=generator) < 0.3
        at = torch.randint(0, 4, alive.shape, generator=generator)
        scores = torch.where(odd, special[at], scores)
        found = top_k(scores, alive, counts)
        for row, count in enumerate(counts.tolist()):
            there = alive[row].nonzero()[:, 0].tolist()
            ends = torch.finfo(torch.float32)
            value = scores[row].nan_to_num(nan=ends.min, posinf=ends.max, neginf=ends.min)
            best = sorted(there, key=lambda token: -value[token].item())[:count]
            assert found[row].nonzero()[:, 0].tolist() == sorted(best)


# -- controls ------------------------------------------------------------------------------------


def spread(grid: Tensor, image: Tensor, alive: Tensor, counts: Tensor) -> Tensor:
    """Farthest-point sampling of places, in operations on the batch."""
    placed = ~grid.isnan().any(-1) & alive
    place = torch.cat([grid.nan_to_num(), 4.0 * image[..., None].clamp(min=0)], dim=-1)
    centre = place[..., :2].square().sum(-1)
    distance, keep = 100.0 - centre * 1e-3, torch.zeros_like(alive)
    for step in range(int(counts.max())):
        rank = torch.where(placed, distance, -1.0 - centre)
        pick = rank.masked_fill(~alive | keep, -torch.inf).argmax(1, keepdim=True)
        keep |= torch.zeros_like(keep).scatter(1, pick, step < counts[:, None]) & alive
        gap = (place - place.gather(1, pick[..., None].expand(-1, -1, 3))).square().sum(-1)
        distance = torch.minimum(distance, gap - centre * 1e-3)
    return keep


@pytest.mark.parametrize("layout", ["square", "wide", "newlines", "images", "anywhere", "nowhere"])
@pytest.mark.parametrize("lives", [1.0, 0.6])
def test_a_grid_is_spread_by_its_definition(layout: str, lives: float):
    generator = torch.Generator().manual_seed(len(layout))
    height, width = {"square": (24, 24), "wide": (3, 50)}.get(layout, (9, 8))
    rows = torch.arange(height * width)
    grid = torch.stack([(rows // width + 0.5) / height, (rows % width + 0.5) / width], -1) * 2 - 1
    grid = grid.expand(2, -1, -1).clone()
    if layout == "newlines":
        grid[:, width - 1::width] = torch.nan
    if layout == "anywhere":
        grid = torch.rand(grid.shape, generator=generator)
        grid[:, ::7, 0] = torch.nan  # half a place is none
    if layout == "nowhere":
        grid[:] = torch.nan
    image = rows // (20 if layout == "images" else len(rows)) - int(layout == "nowhere")
    alive = torch.rand(2, len(rows), generator=generator) < lives
    view = make_view(2, len(rows), "zeros", 0, alive=alive)
    view = replace(view, grid=grid, image_index=image.expand(2, -1))
    for counts in ([1, 5], [64, 30], [len(rows), 7], [0, 0]):
        counts = torch.tensor(counts)
        found = PRUNERS.get("uniform")(WIDTH).select(view, counts)
        assert torch.equal(found, spread(grid, view.image_index, alive, counts))


def test_the_same_places_are_spread_once():
    from rcp.pruners.uniform import _turns

    view = make_view(3, 25, "zeros", 0)
    _turns.cache_clear()
    for count in (4, 4, 5):
        PRUNERS.get("uniform")(WIDTH).select(view, torch.full((3,), count))
    assert _turns.cache_info().misses == 2  # one a count


def test_a_draw_is_a_hash_of_seed_layer_and_rank():
    ranks = [0, 1, 2, 575, 2879, 99_999, NUMBERS - 1]
    for seed, layer in ((0, 0), (3, 12), (2**32 - 1, 39)):
        expected = []
        for rank in ranks:
            value = rank * 2654435761 + seed * 40503 + layer * 97
            for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 0x297A2D39)):
                value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
            expected.append(value / 2**32)
        found = draw(torch.tensor([ranks, ranks]), seed, layer)
        assert found.dtype == torch.float32 and torch.equal(found[0], found[1])
        assert torch.equal(found[0], torch.tensor(expected))
    beyond = torch.tensor([[0, NUMBERS]])
    assert draw(beyond, 0, 0)[0, 0] == draw(beyond, 0, 0)[0, 1]


def test_numbers_that_were_drawn_at_inference_serve_a_training():
    with torch.inference_mode():
        draw(torch.zeros(1, 1, dtype=torch.long), 12345, 1)
    weight = torch.ones(1, 2, requires_grad=True)
    (draw(torch.tensor([[0, 1]]), 12345, 1) * weight).sum().backward()
    assert weight.grad is not None
