"""Methods for several images and for videos, by hand and against loops over tokens."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcp.choosing.merging import transport
from rcp.pruners import PRUNERS
from rcp.pruners.temporal_duplicates import predecessors
from tests.views import WIDTH, make_view

METHODS = ["catp", "catp_decoder", "aot", "temporal_duplicates"]
CASES = range(100)


def case(seed: int):
    """A view of unequal images and frames, some of its tokens dead, and how many are wanted."""
    generator = torch.Generator().manual_seed(seed)
    tokens = seed % 23 + 1
    alive = torch.rand(2, tokens, generator=generator) > (0.3 if seed % 3 else -1)
    alive[:, 0] = True
    kind = ("random", "random", "pairs")[seed % 3]
    view = make_view(2, tokens, kind, seed, alive, images=seed % 4 + 1)
    counts = (torch.rand(2, generator=generator) * alive.sum(1)).long() + 1
    return view, torch.minimum(counts, alive.sum(1))


def cosine(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    lengths = float(one.norm() * other.norm())
    return round(float(one @ other) / lengths if lengths else 0.0, 9)


def slots(keep: Tensor) -> list[int]:
    return keep.nonzero()[:, 0].tolist()


def best(tokens: list[int], count: int, worth) -> list[int]:
    """The ``count`` best, of equals the earlier; as far apart as fp32 tells."""
    rounded = torch.tensor([float(worth(token)) for token in tokens]).tolist()
    order = sorted(range(len(tokens)), key=lambda at: -rounded[at])
    return [tokens[at] for at in order[:count]]


# -- what all of them bear -----------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(6,), (1,), (1, 1, 1, 1), (1, 5, 2), (4, 4, 4), (3, 1, 7, 1)])
@pytest.mark.parametrize("kind", ["random", "duplicates", "zeros"])
def test_any_number_of_frames_of_any_length(name, dtype, lengths, kind):
    tokens = sum(lengths)
    frame = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    view = replace(make_view(1, tokens, kind, 0), image_index=frame, frame_index=frame)
    view = view.mapped(lambda fact: fact.to(dtype) if fact.is_floating_point() else fact)
    pruner = PRUNERS.get(name)(WIDTH)
    for count in {1, (tokens + 1) // 2, tokens}:
        keep = pruner.select(view, torch.tensor([count]))
        assert keep.sum() == count
        weights = pruner.merge(view, keep)
        if weights is not None:
            assert weights.shape == (1, count, tokens) and weights.isfinite().all()
            assert torch.allclose(weights.sum(2), torch.ones(1, count))


# -- CATP ----------------------------------------------------------------------------------------


def test_catp_covers_and_listens_by_hand():
    """Of each image two directions, the first of which two tokens show; its text speaks of the
    other. Coverage alone takes a token of the first, by 2 + 1/2 to 1 + 1/2 * 2."""
    projected = torch.tensor([[1.0, 0], [1, 0], [0, 1]]).repeat(2, 1)[None]
    view = replace(
        make_view(1, 6, "random", 0),
        projected=projected,
        image_index=torch.tensor([[0, 0, 0, 1, 1, 1]]),
        text_embeds=torch.tensor([[[5.0, 0], [0, 1], [0, 3], [1, 0]]]),
        text_image=torch.tensor([[-1, 0, 0, 1]]),
    )
    covering = PRUNERS.get("catp")(WIDTH, text_weight=0.0)
    assert slots(covering.select(view, torch.tensor([2]))[0]) == [0, 3]
    # 0: 2.5 + w / 2, 2: 2 + w; so for w > 1 the first image keeps what its text speaks of
    for weight, first in ((0.9, 0), (1.1, 2)):
        pruner = PRUNERS.get("catp")(WIDTH, text_weight=weight)
        assert slots(pruner.select(view, torch.tensor([2]))[0]) == [first, 3]
    assert slots(covering.select(view, torch.tensor([4]))[0]) == [0, 2, 3, 5]


def shares(counts: list[int], total: int) -> list[int]:
    """``total`` in proportion to ``counts``; what is left over to the largest remainders."""
    exact = [total * count / sum(counts) for count in counts]
    found = [math.floor(share + 1e-9) for share in exact]
    order = sorted(range(len(counts)), key=lambda at: -round(exact[at] - found[at], 9))
    for at in order[: total - sum(found)]:
        found[at] += 1
    return found


@pytest.mark.parametrize("seed", CASES)
def test_catp_is_its_definition(seed):
    view, counts = case(seed)
    keep = PRUNERS.get("catp")(WIDTH).select(view, counts)
    for row, count in enumerate(counts.tolist()):
        alive = slots(view.alive[row])
        images = sorted({int(view.image_index[row, token]) for token in alive})
        members = [[t for t in alive if view.image_index[row, t] == image] for image in images]
        expected: list[int] = []
        for image, own, share in zip(images, members, shares([*map(len, members)], count)):
            words = view.text_embeds[row][view.text_image[row] == image]
            text = words.double().mean(0) if len(words) else torch.zeros(WIDTH)
            projected, picks = view.projected[row], []

            def worth(token):
                cover = sum(
                    max((1 + cosine(projected[y], projected[x])) / 2 for y in [*picks, token])
                    for x in own
                )
                told = sum((1 + cosine(projected[y], text)) / 2 for y in [*picks, token])
                return round(cover + 0.7 * told, 8)

            for _ in range(share):
                picks.append(max((t for t in own if t not in picks), key=worth))
            expected += picks
        assert slots(keep[row]) == sorted(expected)


@pytest.mark.parametrize("seed", CASES)
def test_catp_in_the_decoder_is_its_definition(seed):
    view, counts = case(seed)
    keep = PRUNERS.get("catp_decoder")(WIDTH).select(view, counts)
    now, before = view.attention("last").mean((1, 2)), view.attention_before("last").mean((1, 2))
    for row, count in enumerate(counts.tolist()):
        alive, image, visual = slots(view.alive[row]), view.image_index[row], view.visual[row]
        last = max(*(int(image[token]) for token in alive), int(view.text_image[row].max()))
        asked = [token for token in alive if image[token] == last]
        shown = [token for token in alive if image[token] != last]
        own = shares([len(part) for part in (shown, asked) if part], count)
        of_shown = own[0] if shown else 0
        question = list(view.question[row])
        query = torch.stack([*(visual[t] for t in asked), *question]).double().mean(0)
        rise = (now[row] - before[row]).clamp(min=0)
        kept = best(
            shown, of_shown, lambda t: float(rise[t]) + 0.6 * cosine(visual[t], query)
        )
        texts = [text for text, its in zip(view.text[row], view.text_image[row]) if 0 <= its < last]
        context = torch.stack([*(visual[t] for t in kept), *texts, *question]).double().mean(0)
        kept += best(asked, count - of_shown, lambda t: cosine(visual[t], context))
        assert slots(keep[row]) == sorted(kept)


def test_demonstrations_share_one_count_whatever_each_of_them_keeps():
    """Two demonstrations and a query of 4 tokens each, half kept: the better one keeps all."""
    image = torch.arange(3).repeat_interleave(4)[None]
    visual = torch.zeros(1, 12, WIDTH)
    visual[0, :4, 0], visual[0, 4:8, 1], visual[0, 8:, 0] = 1, 1, torch.tensor([0.0, 1, 0, 1])
    question = torch.zeros(1, 3, WIDTH)
    question[..., 0] = 1
    view = replace(make_view(1, 12, "zeros", 0, images=3), image_index=image, visual=visual,
                   question=question, text_image=torch.full((1, 7), -1))
    view = replace(view, attention_before=view.attention)
    keep = PRUNERS.get("catp_decoder")(WIDTH).select(view, torch.tensor([6]))
    assert slots(keep[0]) == [0, 1, 2, 3, 9, 11]


# -- transport and AOT ---------------------------------------------------------------------------


def naive_plan(cost: list[list[float]], epsilon: float) -> list[list[float]]:
    """Sinkhorn's iteration in loops: sources send 1, targets get equal shares."""
    rows, columns = len(cost), len(cost[0]) if cost else 0
    kernel = [[math.exp(-value / epsilon) for value in line] for line in cost]
    u, v = [0.0] * rows, [1.0] * columns

    def send():
        for i in range(rows):
            u[i] = 1 / sum(kernel[i][j] * v[j] for j in range(columns))

    for _ in range(100):
        send()
        for j in range(columns):
            v[j] = rows / columns / sum(kernel[i][j] * u[i] for i in range(rows))
    send()
    return [[u[i] * kernel[i][j] * v[j] for j in range(columns)] for i in range(rows)]


def test_a_plan_by_hand():
    """Between two and two that cost 0 or 1 a share 1 / (1 + e^(-1 / epsilon)) goes the cheap way;
    three sources send all of their mass to the only target there is."""
    yes = torch.ones(2, dtype=torch.bool)
    plan = transport(torch.tensor([[0.0, 1], [1, 0]]).double(), yes, yes, 0.5)
    cheap = 1 / (1 + math.exp(-2))
    assert torch.allclose(plan, torch.tensor([[cheap, 1 - cheap], [1 - cheap, cheap]]).double())
    there, real = torch.tensor([True, True, True, False]), torch.tensor([False, True])
    plan = transport(torch.rand(4, 2).double(), there, real, 0.1)
    assert torch.allclose(plan, torch.tensor([[0, 1], [0, 1], [0, 1], [0, 0]]).double())
    nobody = torch.zeros(4, dtype=torch.bool)
    assert not transport(torch.rand(4, 2).double(), nobody, real, 0.1).any()
    assert not transport(torch.rand(4, 2).double(), there, nobody[:2], 0.1).any()


@pytest.mark.parametrize("seed", CASES)
def test_a_plan_is_that_of_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randint(1, 7, (2,), generator=generator).tolist()
    cost = 2 * torch.rand(rows, columns, generator=generator).double()
    there = torch.rand(rows, generator=generator) > 0.3
    real = torch.rand(columns, generator=generator) > 0.3
    epsilon = (0.01, 0.1, 1.0)[seed % 3]
    plan = transport(cost, there, real, epsilon)
    expected = torch.zeros_like(plan)
    if there.any() and real.any():
        naive = torch.tensor(naive_plan(cost[there][:, real].tolist(), epsilon)).double()
        expected[there.nonzero(), real.nonzero()[:, 0]] = naive
        assert torch.allclose(plan.sum(1)[there], torch.ones(int(there.sum())).double())
    assert torch.allclose(plan, expected, atol=1e-9)


class NaiveAOT:
    """AOT of one row of a view, in loops."""

    def __init__(self, view, row: int, count: int, clip: int, fresh: float, windows: int) -> None:
        self.view, self.row, self.clip, self.windows = view, row, clip, windows
        self.alive = slots(view.alive[row])
        names = sorted({int(view.frame_index[row, token]) for token in self.alive})
        self.frames = [
            [t for t in self.alive if view.frame_index[row, t] == name] for name in names
        ]
        self.salience = view.vision_cls_attention[row]
        first = sum(len(own) for own in self.frames[::clip])
        share = count / (first + fresh * (len(self.alive) - first))
        quotas = [math.ceil(share * len(own) - 1e-9) for own in self.frames]
        self.anchors = [self.anchors_of(own, quota) for own, quota in zip(self.frames, quotas)]
        tokens = view.projected[row].double()
        self.weights, joined = {}, {}
        for own, anchors in zip(self.frames, self.anchors):
            guests = [token for token in own if token not in anchors]
            plan = self.plan([tokens[t] for t in guests], [tokens[t] for t in anchors])
            for j, anchor in enumerate(anchors):
                row_of = torch.zeros(len(tokens)).double()
                row_of[anchor] = 1
                for i, guest in enumerate(guests):
                    row_of[guest] = plan[i][j]
                self.weights[anchor] = row_of / row_of.sum()
                joined[anchor] = self.weights[anchor] @ tokens
        self.between = {}
        for number, anchors in enumerate(self.anchors):
            heads = self.anchors[number - number % clip]
            if number % clip:
                plan = self.plan([joined[t] for t in anchors], [joined[t] for t in heads])
                self.between |= {t: dict(zip(heads, line)) for t, line in zip(anchors, plan)}

    def plan(self, sources, targets):
        return naive_plan([[1 - cosine(one, other) for other in targets] for one in sources], 0.1)

    def anchors_of(self, own: list[int], quota: int) -> list[int]:
        local = quota // 2
        chosen = best(own, quota - local, lambda t: self.salience[t])
        rest = [token for token in own if token not in chosen]
        turns: list[list[int]] = []
        for window in sorted({self.window(token) for token in rest}):
            inside = [token for token in rest if self.window(token) == window]
            for turn, token in enumerate(best(inside, len(inside), lambda t: self.salience[t])):
                turns += [[]] * (turn == len(turns))
                turns[turn] = [*turns[turn], token]
        ranked = [t for turn in turns
                  for t in best(sorted(turn), len(turn), lambda t: self.salience[t])]
        return sorted(chosen + ranked[:local])

    def window(self, token: int) -> tuple[int, ...]:
        place = self.view.grid[self.row, token].tolist()
        if math.isnan(sum(place)):
            return (-1,)
        return tuple(
            min(max(math.floor((at + 1) / 2 * self.windows), 0), self.windows - 1) for at in place
        )

    def kept(self, count: int) -> list[int]:
        heads = sorted(token for anchors in self.anchors[:: self.clip] for token in anchors)
        later = sorted(self.between)
        kept = best(heads, count, lambda t: self.salience[t])
        unlike = {token: 1 - round(max(line.values()), 9) for token, line in self.between.items()}
        return sorted(kept + best(later, count - len(kept), lambda t: unlike[t]))

    def merged(self, kept: list[int]) -> Tensor:
        rows = []
        for token in kept:
            row, mass = self.weights[token], 1.0
            for other, line in self.between.items():
                if other not in kept and token in line:
                    row = row + line[token] * self.weights[other]
                    mass += line[token]
            rows.append(row / mass)
        return torch.stack(rows).float()


@pytest.mark.parametrize("seed", CASES)
def test_aot_is_its_definition(seed):
    view, counts = case(seed)
    grid = view.grid.clone()
    grid[:, 5:7] = torch.nan  # newlines
    view = replace(view, grid=grid)
    clip, fresh, windows = (1, 2, 3, 8)[seed % 4], (0.5, 1.0, 0.0)[seed % 3], seed % 2 + 2
    pruner = PRUNERS.get("aot")(WIDTH, clip=clip, fresh=fresh, windows=windows)
    keep = pruner.select(view, counts)
    weights = pruner.merge(view, keep)
    for row, count in enumerate(counts.tolist()):
        naive = NaiveAOT(view, row, count, clip, fresh, windows)
        assert slots(keep[row]) == naive.kept(count)
        expected = naive.merged(slots(keep[row]))
        assert torch.allclose(weights[row, :count], expected, atol=1e-6)


def test_aot_by_hand():
    """Two frames of two tokens, of which three in all stay.

    All four are anchors: 3 / (2 + 2 / 2) of each frame's two. The second frame repeats one of the
    first and brings one that is like both of them: this has no large share anywhere and stays, the
    other's mass goes where it belongs, but for what equal shares of two to two push away.
    """
    projected = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [1, 1]]])
    frame = torch.tensor([[0, 0, 1, 1]])
    view = replace(make_view(1, 4, "random", 0), projected=projected, frame_index=frame)
    pruner = PRUNERS.get("aot")(WIDTH)
    keep = pruner.select(view, torch.tensor([3]))
    assert slots(keep[0]) == [0, 1, 3]
    half = 1 - 0.5**0.5
    to_first, _ = naive_plan([[0.0, 1.0], [half, half]], 0.1)
    weights = pruner.merge(view, keep)[0]
    assert torch.allclose(weights[2], torch.tensor([0.0, 0, 0, 1]))
    for number, share in enumerate(to_first):
        own, other = 1 / (1 + share), share / (1 + share)
        assert math.isclose(float(weights[number, number]), own, rel_tol=1e-5)
        assert math.isclose(float(weights[number, 2]), other, rel_tol=1e-5)


def test_a_token_of_mass_one_moves_its_anchor():
    """One anchor and three like it: the mean of the four, not a hair of it."""
    view = replace(make_view(1, 4, "duplicates", 0), frame_index=torch.zeros(1, 4).long())
    pruner = PRUNERS.get("aot")(WIDTH)
    weights = pruner.merge(view, pruner.select(view, torch.tensor([1])))
    assert torch.allclose(weights, torch.full((1, 1, 4), 0.25))


def test_without_cls_the_unlike_are_anchors():
    projected = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [1, 0]]])
    view = replace(make_view(1, 4, "random", 0), projected=projected, vision_cls_attention=None,
                   frame_index=torch.zeros(1, 4).long())
    keep = PRUNERS.get("aot")(WIDTH).select(view, torch.tensor([1]))
    assert slots(keep[0]) == [2]


@pytest.mark.parametrize(("arguments", "word"), [
    ({"epsilon": 0.001}, "epsilon"), ({"fresh": 1.5}, "fresh"), ({"clip": 0}, "clip"),
    ({"windows": 0}, "windows"),
])
def test_what_aot_cannot_work_with_is_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        PRUNERS.get("aot")(WIDTH, **arguments)


# -- duplicates over time ------------------------------------------------------------------------


def test_what_has_not_changed_goes_first_by_hand():
    """Three frames of two tokens: the second repeats the first's left and turns its right a little,
    the third turns both more."""
    angles = torch.tensor([0.0, 1.0, 0.0, 1.2, 0.5, 2.2])
    projected = torch.stack([angles.cos(), angles.sin()], -1)[None]
    side = torch.tensor([[0.0, -0.5], [0.0, 0.5]])
    view = replace(
        make_view(1, 6, "random", 0),
        projected=projected,
        frame_index=torch.arange(3).repeat_interleave(2)[None],
        grid=side.repeat(3, 1)[None],
    )
    assert predecessors(view).tolist() == [[-1, -1, 0, 1, 2, 3]]
    pruner = PRUNERS.get("temporal_duplicates")(WIDTH)
    for count, expected in ((2, [0, 1]), (3, [0, 1, 5]), (4, [0, 1, 4, 5]), (5, [0, 1, 3, 4, 5])):
        assert slots(pruner.select(view, torch.tensor([count]))[0]) == expected


@pytest.mark.parametrize("seed", CASES)
def test_temporal_duplicates_are_their_definition(seed):
    view, counts = case(seed)
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 3, (*view.alive.shape, 2), generator=generator).float()
    place[torch.rand(view.alive.shape, generator=generator) < 0.1] = torch.nan
    view = replace(view, grid=place / 3)
    keep = PRUNERS.get("temporal_duplicates")(WIDTH).select(view, counts)
    for row, count in enumerate(counts.tolist()):
        alive, frame = slots(view.alive[row]), view.frame_index[row].tolist()
        before = {}
        for token in alive:
            same = [other for other in alive if frame[other] == frame[token] - 1
                    and torch.equal(place[row, other], place[row, token])]
            repeats = any(frame[other] == frame[token] and other < token
                          and torch.equal(place[row, other], place[row, token]) for other in alive)
            if same and not repeats:
                before[token] = same[-1]
        projected = view.projected[row]
        later = best(sorted(before), len(before),
                     lambda t: 1 - cosine(projected[t], projected[before[t]]))
        fresh = [token for token in alive if token not in before]
        if count < len(fresh):
            assert set(slots(keep[row])) <= set(fresh)
        else:
            assert slots(keep[row]) == sorted(fresh + later[: count - len(fresh)])
