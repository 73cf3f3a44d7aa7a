"""Every method on a model: masked and dropped alike, alone as in a batch."""

import functools
from dataclasses import replace

import pytest
import torch

import rcp
from rcp.choosing.view import LOOKS_BACK, mean_over_question
from rcp.pruners import PRUNERS
from rcp.pruners.feather import cells
from tests.probe import probing
from tests.tiny import RCP_ARGUMENTS, randomised, row_of, tiny_inputs, tiny_llava_model
from tests.views import make_view

ARGUMENTS = {"rcp": RCP_ARGUMENTS}
PARITY = 1e-5  # fp32, logits of order 1
IMAGES = (1, 2, 1)


@functools.cache
def model():
    return tiny_llava_model()


@functools.cache
def batch():
    return tiny_inputs(questions=(5, 9, 6), images=IMAGES)


def plugin(name, layers, ratios=(0.5, 0.2), **arguments):
    arguments = ARGUMENTS.get(name, {}) | arguments
    stages = [rcp.StageSpec(at, ratio, name, arguments) for at, ratio in zip(layers, ratios)]
    return randomised(rcp.Plugin.for_model(rcp.PluginSpec(stages=stages), model()))


@torch.no_grad()
def run(found, mode, inputs):
    with rcp.attach(model(), found, mode) as handle, handle.trace() as trace:
        logits = model()(**inputs).logits
    return logits, trace.plan


def places(name):
    return [(1, 3)] if PRUNERS.get(name).needs & LOOKS_BACK else [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("name", "layers"), [(name, at) for name in PRUNERS.names() for at in places(name)]
)
def test_masked_and_dropped_agree(name, layers):
    found, inputs = plugin(name, layers), batch()
    soft, masked = run(found, "soft", inputs)
    drop, dropped = run(found, "drop", inputs)
    assert torch.equal(masked.alive, dropped.alive)
    text = inputs["attention_mask"].bool() & (inputs["input_ids"] != 99)
    assert (soft - drop)[text].abs().max() < PARITY
    alone = run(found, "drop", row_of(inputs, 2, IMAGES))[1]
    real = inputs["attention_mask"][2].bool()
    assert torch.equal(alone.alive[:, 0], dropped.alive[:, 2, real])


def test_feather_adds_a_grid_in_its_first_stage_only():
    view = make_view(1, 16, "random", 0)
    side = torch.arange(4)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(1, 16, 2)
    view = replace(view, grid=(grid + 0.5) / 2 - 1)
    assert torch.equal(cells(view), grid)
    first = PRUNERS.get("feather")(8).select(view, torch.tensor([6]))
    assert first[0, [0, 3, 12, 15]].all() and first.sum() == 6
    later = PRUNERS.get("feather")(8).select(replace(view, stage=1), torch.tensor([6]))
    score = view.attention_before("last", among_visual=True).mean(1)[0, 0]
    assert set(later[0].nonzero()[:, 0].tolist()) == set(score.topk(6).indices.tolist())


def test_feather_bears_fewer_tokens_than_images():
    view = replace(make_view(1, 2, "random", 0), image_index=torch.tensor([[1, 4]]))
    assert PRUNERS.get("feather")(8).select(view, torch.tensor([1])).sum() == 1


def kept(name, **arguments):
    found = plugin(name, (1, 3), (1.0, 0.5), **arguments)
    soft, masked = run(found, "soft", batch())
    drop, dropped = run(found, "drop", batch())
    text = batch()["attention_mask"].bool() & (batch()["input_ids"] != 99)
    assert (soft - drop)[text].abs().max() < PARITY and torch.equal(masked.kept, dropped.kept)
    return dropped.kept.tolist()


def test_todre_drops_all_of_a_sample_or_nothing():
    """By each sample's own attention: below, between and above what this batch has."""
    assert kept("todre_exit", tau=0.0) == [[16, 32, 16], [8, 16, 8]]
    assert kept("todre_exit", tau=2.0) == [[0, 0, 0], [0, 0, 0]]
    plugin_, probes = probing(model(), ["attention"], (1,), (1.0,))
    run(plugin_, "drop", batch())
    (view,) = probes[1].views
    to_image = mean_over_question(view.attention("question"), view.question_valid).sum(1)
    within = view.attention("visual").mean(1).sum((1, 2)) / view.alive.sum(1)
    most = torch.maximum(to_image, 1 - within)
    lowest, other, _ = most.sort().values.tolist()
    first, second = kept("todre_exit", tau=(lowest + other) / 2)
    assert [count == 0 for count in first] == (most == most.min()).tolist()
    assert all(after == 0 for before, after in zip(first, second) if before == 0)


def test_transprune_weighs_moves_and_attention_alike():
    view = make_view(1, 4, "random", 0)
    view = replace(
        view,
        transitions=torch.tensor([[4.0, 0.0, 2.0, 2.0]]),
        question_attention=torch.tensor([[0.0, 0.01, 0.01, 0.02]]),
    )
    score = PRUNERS.get("transprune")(8)(view)
    assert torch.allclose(score, torch.tensor([[0.5, 0.25, 0.5, 0.75]]))


def test_adaptinfer_is_its_formula():
    view = make_view(2, 9, "random", 3)
    text, visual = view.attention("question", "question"), view.attention("question")
    expected = torch.zeros(2, 9)
    for head in range(text.shape[1]):
        both = text[:, head] + text[:, head].mT - torch.diag_embed(text[:, head].diagonal(0, 1, 2))
        expected += torch.einsum("bt,btv->bv", both.sum(1), visual[:, head])
    assert torch.allclose(PRUNERS.get("adaptinfer")(8)(view), expected)


@pytest.mark.parametrize("method", ["question_attention", "fastv", "adaptinfer", "transprune"])
def test_debiasing_divides_attention_by_its_trend(method):
    view = make_view(2, 9, "random", 3)
    plain = PRUNERS.get("debiased")(8, growth=0.0, method=method)
    assert torch.equal(plain(view), PRUNERS.get(method)(8)(view))
    strong = PRUNERS.get("debiased")(8, growth=200.0, method=method)
    if method != "transprune":  # whose other half knows no bias
        assert strong.select(view, torch.tensor([3, 3])).nonzero()[:, 1].tolist() == [0, 1, 2] * 2


def test_sinks_are_told_by_a_massive_activation_and_wrappers_nest():
    view = make_view(1, 9, "random", 3)
    state = torch.ones(1, 9, 8)
    state[0, 4, 6], state[0, 5, 1] = 100.0, -100.0
    view = replace(view, layer_input=state)
    every, one = ({"threshold": 2.5}, {"threshold": 2.5, "dimensions": [1]})
    for arguments, sinks in ((every, {4, 5}), (one, {5})):
        nested = {"method": "debiased", "arguments": {"method": "fastv"}}
        pruner = PRUNERS.get("without_sinks")(8, **arguments, **nested)
        assert pruner.needs == {"layer_input", "attention_before"}
        keep = pruner.select(view, torch.tensor([9 - len(sinks)]))
        assert set((~keep[0]).nonzero()[:, 0].tolist()) == sinks


def test_wrapping_what_reads_no_attention_is_refused():
    with pytest.raises(rcp.UserError, match="'uniform' reads none"):
        PRUNERS.get("debiased")(8, method="uniform")


def test_published_schedules_move_with_the_depth():
    fastv, pyramid = (PRUNERS.get(name).published[0] for name in ("fastv", "pyramiddrop"))
    assert fastv.layers_in(32) == (2,) and fastv.layers_in(6) == (1,)
    assert pyramid.layers_in(24) == (6, 12, 18)
    assert PRUNERS.get("adaptinfer").published[0].layers_in(4) == (1, 2, 3)
    for name in PRUNERS.names():
        for found in PRUNERS.get(name).published:
            rcp.Schedule(found.layers, found.ratios, found.depth)


def test_sparsevlm_recycles_what_it_drops():
    """Ten of forty stay; dropped ones of one kind go on as the mean of their group."""
    view = make_view(1, 40, "random", 3)
    pruner = PRUNERS.get("sparsevlm")(8)
    keep = pruner.select(view, torch.tensor([10]))
    weights = pruner.merge(view, keep)[0]
    score = pruner(view)[0]
    groups = weights.gt(0).sum(1) > 1
    assert groups.sum() == 2  # 30 go, a third of them and the next are recycled, 1 + 10 // 10
    assert torch.allclose(weights.sum(1), torch.ones(10))
    members = weights[groups].sum(0).nonzero()[:, 0].tolist()
    assert set(members) == set(score.argsort(descending=True)[8:18].tolist())


def test_sparsevlm_asks_the_text_that_is_about_the_image():
    view = make_view(1, 12, "random", 3)
    embeds = torch.zeros(1, 3, 8)
    embeds[0, 1] = 50 * view.projected[0].mean(0)
    view = replace(view, question_embeds=embeds)
    expected = view.attention("question")[0, :, 1].mean(0)
    assert torch.allclose(PRUNERS.get("sparsevlm")(8)(view)[0], expected)


def test_visiondrop_divides_by_the_rows_that_may_look():
    """And what merges is the target plus the mean of its guests."""
    flat = make_view(1, 12, "zeros", 0)
    score = PRUNERS.get("visiondrop_decoder")(8)(flat)[0]
    rows = torch.arange(1, 13)
    harmonic = torch.stack([(1 / rows[i:]).mean() for i in range(12)])
    assert torch.allclose(score, harmonic)
    view = make_view(1, 12, "random", 0)
    pruner = PRUNERS.get("visiondrop_decoder")(8, contextual=0.5)
    keep = pruner.select(view, torch.tensor([4]))
    weights = pruner.merge(view, keep)[0]
    assert weights.shape == (4, 12)
    total = weights.sum(1)
    assert ((total - 1).abs() < 1e-6).sum() >= 2 and total.max() == 2  # dominant: themselves


def test_a_reserve_is_chosen_blind_and_the_rest_by_the_method():
    """Ten tokens, four kept: two by the grid, two of what is left by attention, in any batch."""
    view = make_view(2, 10, "random", 3)
    counts = torch.tensor([4, 2])
    blind = PRUNERS.get("uniform")(8).select(view, torch.tensor([2, 1]))
    attention = view.question_attention.masked_fill(blind | ~view.alive, -1)
    kept = PRUNERS.get("reserve")(8, share=0.5).select(view, counts)
    for row, few in enumerate((2, 1)):
        own = torch.zeros(10, dtype=torch.bool)
        own[attention[row].topk(few).indices] = True
        assert torch.equal(kept[row], blind[row] | own)
    for share, alone in ((0.0, "question_attention"), (1.0, "uniform")):
        whole = PRUNERS.get("reserve")(8, share=share).select(view, counts)
        assert torch.equal(whole, PRUNERS.get(alone)(8).select(view, counts))


def test_a_reserve_trains_what_it_wraps():
    view = make_view(1, 10, "random", 3)
    arguments = {"inner": 8, "queries": 4, "heads": 2}
    pruner = PRUNERS.get("reserve")(8, method="rcp", arguments=arguments).eval()
    assert torch.equal(pruner(view), pruner.inner(view))
    assert any(True for _ in pruner.parameters())


def test_recoverable_keeps_one_of_each_kind(monkeypatch):
    """Four of six: by [CLS] 0, by the text 4, as a centre 2; 1, 3 and 5 go on as one."""
    counts = (torch.tensor([1]), torch.tensor([1]), torch.tensor([1]))
    monkeypatch.setattr("rcp.pruners.recoverable.outlier_counts", lambda *_: counts)
    view = make_view(1, 6, "random", 3)
    projected = torch.zeros(1, 6, 8)
    projected[..., 1], projected[0, 4] = 1.0, torch.eye(8)[0]
    view = replace(
        view,
        vision_cls_attention=torch.tensor([[0.6, 0.1, 0.2, 0.05, 0.04, 0.01]]),
        projected=projected,
        question_embeds=torch.eye(8)[0].expand(1, 3, 8),
    )
    pruner = PRUNERS.get("recoverable")(8)
    keep = pruner.select(view, torch.tensor([4]))
    assert keep[0].nonzero()[:, 0].tolist() == [0, 1, 2, 4]
    assert torch.allclose(pruner.merge(view, keep)[0], torch.tensor([
        [1, 0, 0, 0, 0, 0],
        [0, 0.1, 0, 0.05, 0, 0.01],
        [0, 0.1, 1, 0.05, 0, 0.01],
        [0, 0, 0, 0, 1, 0],
    ]))


def test_dependencyvit_counts_what_all_patches_send():
    """Three tokens of an image of two patches: shares of 0.5 + 0.1, 0.3 + 0.6 and 0.2 + 0.3."""
    attention = torch.tensor([[[0.5, 0.1], [0.3, 0.6], [0.2, 0.3]]])
    view = replace(make_view(1, 3, "random", 0), encoder_attention=attention)
    pruner = PRUNERS.get("dependencyvit")(8)
    torch.testing.assert_close(pruner(view), torch.tensor([[0.6, 0.9, 0.5]]))
    assert pruner.select(view, torch.tensor([1])).tolist() == [[False, True, False]]


def test_vflowopt_asks_the_most_attended_and_merges_by_importance():
    """Two by two tokens of one cell, patch 0 the one that is attended to: importance .4 .3 .2 .1.

    Two stay: the best, and the mean of the others by importance in the slot of the second best.
    """
    side = torch.arange(2)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(1, 4, 2) - 0.5
    attention = torch.tensor([[0.3, 9.0], [0.3, 9.0], [0.1, 9.0], [0.0, 9.0]])[None]
    view = replace(
        make_view(1, 4, "random", 0),
        grid=grid,
        encoder_attention=attention,
        encoder_attended=torch.tensor([1.5, 0.5]).expand(1, 4, 2),
        patch_entropy=torch.tensor([[0.05, 0.0, 0.05, 0.05]]),
    )
    pruner = PRUNERS.get("vflowopt")(8, threshold=1.0, alpha=2.0, cell=2)
    assert torch.allclose(pruner(view), torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    keep = pruner.select(view, torch.tensor([2]))
    assert keep.tolist() == [[True, True, False, False]]
    merged = torch.tensor([[1, 0, 0, 0], [0, 0.5, 1 / 3, 1 / 6]])
    assert torch.allclose(pruner.merge(view, keep)[0], merged)
    nobody = PRUNERS.get("vflowopt")(8, threshold=3.0, alpha=0.0)
    assert torch.allclose(nobody(view), attention.mean(2)), "then all patches are asked"
