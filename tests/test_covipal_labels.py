"""From a teacher's attention to labels, and the losses of CoViPAL's two stages."""

import pytest
import torch

from rcp.choosing.selection import top_k
from rcp.objectives.labels import attention_labels, sinks
from rcp.objectives.losses import indecision_loss, retention_loss, score_loss

ATTENTION = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) ** 4
ALIVE = torch.ones(3, 20, dtype=torch.bool)
ALIVE[1, 12:] = False
COUNTS = torch.tensor([5, 3, 1])


@pytest.mark.parametrize("form", ["log", "rank", "share"])
def test_labels_rank_like_the_attention_and_are_positive_where_kept(form):
    labels = attention_labels(ATTENTION, ALIVE, COUNTS, form)
    assert torch.equal((labels > 0) & ALIVE, top_k(ATTENTION, ALIVE, COUNTS))
    for row, alive, attention in zip(labels, ALIVE, ATTENTION):
        assert torch.equal(row[alive].argsort(), attention[alive].argsort())
        assert row[alive].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert (labels[~ALIVE] == 0).all()


def test_labels_do_not_depend_on_the_unit_and_survive_what_is_degenerate():
    scale = torch.tensor([[1.0], [50.0], [1e-3]])
    for form in ("log", "rank", "share"):
        labels = [attention_labels(a, ALIVE, COUNTS, form) for a in (ATTENTION, ATTENTION * scale)]
        torch.testing.assert_close(*labels, atol=1e-4, rtol=1e-4)
        for attention in (torch.zeros(3, 20), torch.ones(3, 20)):
            assert attention_labels(attention, ALIVE, COUNTS, form).isfinite().all()
        nothing = attention_labels(ATTENTION, ALIVE & False, COUNTS, form)
        assert nothing.isfinite().all()


def test_a_sink_bends_the_share_but_hardly_the_rank():
    with_sink = ATTENTION.clone()
    with_sink[:, 0] = 30.0
    others = slice(1, 12)
    spread = {
        form: attention_labels(with_sink, ALIVE, COUNTS, form)[:, others].std(1)
        for form in ("rank", "share")
    }
    assert (spread["share"] < 0.1 * spread["rank"]).all()
    found = sinks(with_sink, ALIVE, 5.0)
    assert found[:, 0].all() and not found[:, 1:].any()


def test_losses_are_what_they_say():
    known = ALIVE
    scores, labels = torch.randn(3, 20), torch.randn(3, 20)
    per_sample = [(s - y)[k].square().mean() for s, y, k in zip(scores, labels, known)]
    torch.testing.assert_close(score_loss(scores, labels, known), torch.stack(per_sample).mean())

    retained = torch.rand(3, 20)
    means = [(r[k].mean() - 0.25).square() for r, k in zip(retained, known)]
    found = retention_loss(retained, known, 0.25)
    torch.testing.assert_close(found, torch.stack(means).mean())

    undecided = [(r * (1 - r))[k].mean() for r, k in zip(retained, known)]
    torch.testing.assert_close(indecision_loss(retained, known), torch.stack(undecided).mean())
    assert indecision_loss(retained.round(), known) == 0


def test_samples_without_images_do_not_count():
    none = ALIVE.clone()
    none[2] = False
    values, other = torch.rand(3, 20), torch.rand(3, 20)
    for loss in (
        lambda v, k: retention_loss(v, k, 0.1),
        indecision_loss,
        lambda v, k: score_loss(v, other[: len(v)], k),
    ):
        torch.testing.assert_close(loss(values, none), loss(values[:2], ALIVE[:2]))
