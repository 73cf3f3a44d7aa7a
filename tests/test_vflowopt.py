"""VFlowOpt: its facts of the vision tower, and its choice against plain loops."""

import math
from dataclasses import replace

import pytest
import torch

import rcp
from rcp.backbones import backbone_for
from rcp.backbones.patch_entropy import entropy_shares
from rcp.pruners import PRUNERS
from rcp.pruners.feather import cells
from tests.families import FAMILIES, Sample
from tests.views import WIDTH, make_view


def importance_by_definition(view, token, threshold, alpha):
    got = view.encoder_attended[0, token].tolist()
    attention = view.encoder_attention[0, token].tolist()
    among = [i for i, share in enumerate(got) if share > threshold] or range(len(got))
    mean = sum(attention[i] for i in among) / len(among)
    return mean + alpha * view.patch_entropy[0, token].item()


def kept_and_merged(view, count, threshold, alpha, side):
    """The kept tokens, and what each is a mean of: weights (count, N)."""
    every = range(view.alive.shape[1])
    worth = [importance_by_definition(view, i, threshold, alpha) for i in every]
    order = sorted(every, key=lambda i: (-worth[i], i))
    place = (cells(view)[0] // side).tolist()
    cell = {i: (int(view.image_index[0, i]), *place[i]) for i in every}
    groups = min(len(set(cell.values())), count // 2)
    dominant, left = order[: count - groups], order[count - groups:]
    strongest = {}
    for i in left:
        strongest.setdefault(cell[i], i)
    centres = list(strongest.values())[:groups]
    rest = [i for i in left if i not in centres]
    filling = rest[: groups - len(centres)]
    weights = torch.eye(len(every), dtype=torch.float64)
    for centre in centres:
        members = [centre] + [i for i in rest if i not in filling and cell[i] == cell[centre]]
        total = sum(worth[i] for i in members)
        for i in members:
            weights[centre, i] = worth[i] / total
    kept = sorted([*dominant, *centres, *filling])
    return kept, weights[kept].float()


def view_of(seed):
    """Up to five by five tokens in each of two images."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns, cut = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(3))
    tokens = 2 * rows * columns
    at = torch.arange(tokens) % (rows * columns)
    grid = torch.stack([(at // columns + 0.5) / rows, (at % columns + 0.5) / columns], -1) * 2 - 1
    view = make_view(1, tokens, "random", seed)
    image = (torch.arange(tokens) >= rows * columns).long()
    view = replace(view, grid=grid[None], image_index=image[None])
    count = int(torch.randint(1, tokens + 1, (), generator=generator))
    return view, count, cut


@pytest.mark.parametrize("seed", range(100))
def test_it_is_its_definition(seed):
    view, count, side = view_of(seed)
    pruner = PRUNERS.get("vflowopt")(WIDTH, threshold=1.0, alpha=0.7, cell=side)
    keep = pruner.select(view, torch.tensor([count]))
    kept, weights = kept_and_merged(view, count, 1.0, 0.7, side)
    assert keep[0].nonzero()[:, 0].tolist() == kept
    assert torch.allclose(pruner.merge(view, keep)[0], weights, atol=1e-6)
    later = replace(view, stage=1)
    assert pruner.merge(later, pruner.select(later, torch.tensor([count]))) is None


@pytest.mark.parametrize("tokens, count", [(1, 1), (2, 1), (2, 2), (33, 1), (33, 33), (40, 39)])
@pytest.mark.parametrize("kind", ["random", "duplicates", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_shapes_keep_exactly_k_and_stay_finite(tokens, count, kind, dtype):
    view = make_view(2, tokens, kind, 1).mapped(
        lambda value: value.to(dtype) if value.is_floating_point() else value
    )
    pruner = PRUNERS.get("vflowopt")(WIDTH)
    keep = pruner.select(view, torch.full((2,), count))
    weights = pruner.merge(view, keep)
    assert keep.sum(1).tolist() == [count, count] and weights.isfinite().all()
    assert torch.allclose(weights.sum(2), torch.ones(2, count), atol=1e-5), "means"


def test_a_lone_patch_is_seen_without_a_dimension_for_it():
    view = make_view(1, 4, "random", 0)
    one = replace(view, encoder_attention=view.encoder_attention[..., 0],
                  encoder_attended=view.encoder_attended[..., 0])
    pruner = PRUNERS.get("vflowopt")(WIDTH, alpha=0.0)
    assert torch.equal(pruner(one), one.encoder_attention)


def test_entropy_by_hand():
    """Four patches of 2 x 2: one grey, two greys, four greys, and three against one: in bits
    0, 1, 2 and 2 - 0.75 log2 3."""
    levels = torch.tensor([
        [0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.1, 0.4, 0.5, 0.5],
        [0.6, 0.9, 0.5, 1.0],
    ])
    pixels = (3 * levels - 1).expand(1, 3, 4, 4)  # neither scale nor level matters
    bits = torch.tensor([0.0, 1.0, 2.0, 2 - 0.75 * math.log2(3)])
    assert torch.allclose(entropy_shares(pixels, 2)[0, :, 0], bits.softmax(0), atol=1e-6)
    flat = entropy_shares(torch.full((2, 3, 6, 4), 0.3), 2)
    assert torch.allclose(flat, torch.full((2, 6, 1), 1 / 6)), "an even image tells nothing"
    odd = entropy_shares(torch.randn(1, 3, 5, 5), 2)
    assert odd.shape == (1, 4, 1), "the tower sees no broken patch either"


@pytest.mark.parametrize("name", ["llava-llama", "llava_onevision", "paligemma", "internvl"])
def test_the_facts_are_those_of_eager_attention_and_of_the_pixels(name):
    case = FAMILIES[name]()
    tower, inputs = backbone_for(case.model).tower, case.inputs((Sample(0),))
    plugin = rcp.Plugin.for_model(rcp.PluginSpec([rcp.StageSpec(0, 0.5, "vflowopt")]), case.model)
    views = []
    pruner = plugin.pruner(0)
    pruner.register_forward_pre_hook(lambda _, args: views.append(args[0]))
    with torch.no_grad(), rcp.attach(case.model, plugin, "drop"):
        case.model(**inputs)
    case.model.base_model.vision_tower.set_attn_implementation("eager")
    rows = []
    hook = tower.attention.register_forward_hook(lambda *call: rows.append(call[-1][1]))
    with torch.no_grad():
        case.model(**inputs)
    hook.remove()
    cls = int(tower.crops)
    attention = rows[0].float().mean(1)[:, cls:]  # (images, senders, rows)
    received = attention[..., cls:].mT
    got = received.sum(2)
    if name == "internvl":
        received = tower.fold(received.contiguous())
    (seen, *_) = views
    first = received.shape[1]  # a base image first, tiles and newlines after it
    assert torch.allclose(seen.encoder_attention[0, :first], received[0], atol=1e-6)
    shares = (got / got.mean(1, keepdim=True))[0].expand(first, -1)
    assert torch.allclose(seen.encoder_attended[0, :first], shares, atol=1e-5)
    pixels = inputs["pixel_values"].flatten(0, -4)[:1]
    patch = case.model.config.vision_config.patch_size
    entropy = entropy_shares(pixels, patch if isinstance(patch, int) else patch[0])
    if name == "internvl":
        entropy = tower.fold(entropy)
    assert torch.allclose(seen.patch_entropy[0, :first], entropy[0, :, 0], atol=1e-6)
