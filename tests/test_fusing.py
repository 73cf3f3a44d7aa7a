"""EViT's step inside a vision tower against a plain reference, and by hand."""

import pytest
import torch

from rcp.choosing.fusing import fused, kept_patches, patches_by_step


def reference(rows, attention, patches, left):
    """One image in plain loops and fp64: (rows left, which patches), both lists."""
    ranked = sorted(range(patches), key=lambda patch: (-attention[patch], patch))
    kept = sorted(ranked[:left])
    extra = [0.0] * len(rows[0])
    for other in range(len(attention)):  # patches, and behind them what was fused before
        if other not in kept:
            for channel, value in enumerate(rows[1 + other]):
                extra[channel] += attention[other] * value
    return [rows[0], *(rows[1 + patch] for patch in kept), extra], kept


@pytest.mark.parametrize("case", range(100))
def test_a_step_is_that_of_a_plain_reference(case):
    """Ties included: every third case has attention of few values."""
    generator = torch.Generator().manual_seed(case)
    images, patches, before = case % 4 + 1, 1 + case % 13, case % 2
    left = 1 + case % patches
    rows = torch.randn(images, 1 + patches + before, 5, generator=generator)
    attention = torch.rand(images, patches + before, generator=generator)
    attention = (attention * 3).ceil() / 10 if case % 3 == 0 else attention.softmax(1)
    found, index = fused(rows, attention, patches, left)
    assert found.shape == (images, left + 2, 5) and index.shape == (images, left)
    for image in range(images):
        expected, kept = reference(
            rows[image].double().tolist(), attention[image].double().tolist(), patches, left
        )
        assert index[image].tolist() == kept
        assert torch.allclose(found[image].double(), torch.tensor(expected).double(), atol=1e-6)
        alone, _ = fused(rows[image:image + 1], attention[image:image + 1], patches, left)
        assert torch.allclose(alone[0], found[image], atol=1e-6)


def test_by_hand():
    """[CLS], three patches and an earlier fused row: the second patch goes, with that row."""
    rows = torch.tensor([[[9.0], [1.0], [2.0], [4.0], [10.0]]])
    found, index = fused(rows, torch.tensor([[0.3, 0.1, 0.2, 0.4]]), 3, 2)
    assert index.tolist() == [[0, 2]]  # though the fused row has the highest attention of all
    assert torch.allclose(found, torch.tensor([[[9.0], [1.0], [4.0], [0.1 * 2 + 0.4 * 10]]]))
    half, _ = fused(rows.half(), torch.tensor([[0.3, 0.1, 0.2, 0.4]]), 3, 2)
    assert half.dtype == torch.float16 and torch.allclose(half.float(), found, atol=2e-3)


@pytest.mark.parametrize(
    ("patches", "keep", "left"),
    [(576, 0.7, [404, 283, 199]), (144, 0.7, [101, 71, 50]), (100, 0.55, [55, 31, 18]),
     (10, 0.1, [1, 1, 1]), (3, 0.99, [3, 3, 3])],
)
def test_a_share_is_rounded_up_block_by_block(patches, keep, left):
    """0.55 of 100 is 55, though its product in floating point is a little more."""
    assert patches_by_step(patches, keep, 3) == left
    assert kept_patches(patches, keep) == left[0]
