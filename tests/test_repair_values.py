"""The repair adapter against its formulas, worked out number by number."""

import math

import pytest
import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.repair import REPAIRS, RepairAdapter
from rcp.repair.base import Dropping
from rcp.repair.film import ContextEncoder, Film, FilmRepair

WIDTH, INNER, SIDE, CHANNELS = 4, 3, 5, 2


def linear(layer: torch.nn.Linear, values: list[float]) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [b + sum(w * x for w, x in zip(row, values)) for row, b in zip(weight, bias)]


def random(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module.requires_grad_(False)


def at(table: Tensor, row: float, column: float) -> list[float]:
    """``table`` (C, side, side) between its cells, whose centres lie half a cell off the edge."""

    def neighbours(place: float) -> list[tuple[int, float]]:
        cell = ((place + 1) * SIDE - 1) / 2
        cell = min(max(cell, 0.0), SIDE - 1.0)
        low = math.floor(cell)
        return [(low, 1 - (cell - low)), (min(low + 1, SIDE - 1), cell - low)]

    rows, columns = neighbours(row), neighbours(column)
    return [
        sum(a * b * plane[i][j] for i, a in rows for j, b in columns) for plane in table.tolist()
    ]


def context_by_hand(encoder: ContextEncoder, dropping: Dropping, sample: int) -> list[float]:
    """Of one sample: attention pooling over its places, where what is gone is a zero vector."""
    query = encoder.query.tolist()
    vectors = []
    for slot, (row, column) in enumerate(dropping.grid[sample].tolist()):
        if not dropping.exists[sample, slot] or math.isnan(row):
            continue
        alive = dropping.alive[sample, slot]
        vectors.append(at(encoder.positions[0], row, column) if alive else [0.0] * CHANNELS)
    logits = [sum(q * x for q, x in zip(query, v)) / math.sqrt(CHANNELS) for v in vectors]
    weights = [math.exp(logit) for logit in logits]
    pooled = [
        sum(w * v[c] for w, v in zip(weights, vectors)) / max(sum(weights), 1e-9)
        for c in range(CHANNELS)
    ]
    context = linear(encoder.mask_projection, pooled)
    count = dropping.pruned_count[sample].item()
    if count:
        mean = [x / count for x in dropping.sums[sample].tolist()]
        context = [a + b for a, b in zip(context, linear(encoder.pruned_projection, mean))]
    return context


def dropping_of(alive: list[list[int]], exists: list[list[int]] | None = None) -> Dropping:
    """Six tokens of an image of two rows by three columns; the last is a newline without place."""
    mask = torch.tensor(alive).bool()
    there = torch.ones_like(mask) if exists is None else torch.tensor(exists).bool()
    # the second row of cells lies at 1/2, the first column at -2/3
    places = [(-0.5, -2 / 3), (-0.5, 0.0), (-0.5, 2 / 3), (0.5, -2 / 3), (0.9, 0.97)]
    grid = torch.tensor([*places, (math.nan, math.nan)]).expand(len(mask), -1, -1)
    torch.manual_seed(2)
    return Dropping(mask & there, there, grid, torch.randn(len(mask), WIDTH) * 3)


CASES = {
    "some dropped": dropping_of([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0]]),
    "nothing dropped": dropping_of([[1, 1, 1, 1, 1, 1]]),
    "all dropped": dropping_of([[0, 0, 0, 0, 0, 0]]),
    "fewer tokens than slots": dropping_of([[1, 0, 1, 0, 0, 0]], [[1, 1, 1, 0, 0, 0]]),
    "only the newline is left": dropping_of([[0, 0, 0, 0, 0, 1]]),
    "no image": dropping_of([[0, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0]]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_context_is_what_its_formula_says(case: str):
    encoder = random(ContextEncoder(WIDTH, INNER, SIDE, CHANNELS))
    dropping = CASES[case]
    context = encoder(dropping)
    for sample in range(len(context)):
        expected = context_by_hand(encoder, dropping, sample)
        assert context[sample].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_film_layer_is_what_its_formula_says():
    film = random(Film(WIDTH, INNER))
    hidden, context = torch.randn(2, 3, WIDTH), torch.randn(2, INNER)
    change = film(hidden, context)
    for sample in range(2):
        for row in range(3):
            values = hidden[sample, row].tolist()
            state = linear(film.state, values)
            state = [a + b for a, b in zip(state, context[sample].tolist())]
            features = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in linear(film.down, values)]
            gamma, beta = linear(film.gamma, state), linear(film.beta, state)
            mixed = [(1 + g) * f + b for g, f, b in zip(gamma, features, beta)]
            expected = linear(film.up, mixed)
            assert change[sample, row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_adapter_is_a_context_and_one_film_a_layer():
    repair = random(FilmRepair(WIDTH, [2, 5], inner=INNER, side=SIDE, channels=CHANNELS))
    dropping = CASES["some dropped"]
    context = repair.remember(dropping)
    assert torch.equal(context, repair.context(dropping)) and context.shape == (2, INNER)
    hidden = torch.randn(2, 3, WIDTH)
    for layer in (2, 5):
        film = repair.films[str(layer)]
        assert torch.equal(repair(layer, hidden, context), film(hidden, context))
    assert repair.layers == (2, 5) and repair.hidden_size == WIDTH


def test_a_fresh_adapter_adds_exactly_nothing_and_its_sizes_are_those_of_the_paper():
    repair = FilmRepair(WIDTH, [1])
    assert not repair(1, torch.randn(1, 2, WIDTH), torch.randn(1, 512)).any()
    assert repair.context.positions.shape == (1, 64, 24, 24)
    # its places start small, so that a context starts with what was dropped
    assert 0.015 < repair.context.positions.std() < 0.025
    assert 0.01 < repair.context.query.std() < 0.03
    film = repair.films["1"]
    assert (film.up.in_features, film.up.out_features) == (512, WIDTH)
    assert not film.gamma(torch.randn(512)).any() and not film.beta(torch.randn(512)).any()


@pytest.mark.parametrize("size", ["inner", "side", "channels"])
def test_a_size_below_one_is_refused_by_name(size: str):
    FilmRepair(WIDTH, [1], **{size: 1})
    with pytest.raises((UserError, ValueError), match=size):
        FilmRepair(WIDTH, [1], **{size: 0})


def test_an_adapter_that_lacks_a_method_says_which():
    class Half(RepairAdapter):
        pass

    assert Half.name == "" and "" not in REPAIRS.names()
    with pytest.raises(TypeError, match=r"Half must override remember\(\)"):
        Half(WIDTH, [1]).remember(CASES["no image"])
    with pytest.raises(TypeError, match=r"Half must override forward\(\)"):
        Half(WIDTH, [1])(1, torch.zeros(1, 1, WIDTH), torch.zeros(1, 1))


def test_dropped_are_those_that_exist_and_are_not_alive():
    alive = torch.tensor([[True, False, False, False], [True, True, True, False]])
    exists = torch.tensor([[True, True, False, False], [True, True, True, True]])
    places = torch.zeros(2, 4, 2)
    assert Dropping(alive, exists, places, torch.zeros(2, WIDTH)).pruned_count.tolist() == [1, 1]
