"""Pure mask arithmetic."""

import pytest
import torch

from rcp.attaching.masks import KEY_BIAS_EPS, causal, key_bias, with_key_bias


@pytest.mark.parametrize("sink", [0.0, 10.0, 15.0])
def test_a_pruned_attention_sink_does_not_leak(sink):
    """Pins the epsilon: 1e-6 leaks 0.4 of a +15 nat sink."""
    logits = torch.randn(1, 1, 6, 6)
    logits[..., 2] += sink
    values = torch.randn(1, 1, 6, 4)
    kept = torch.ones(1, 6)
    kept[0, 2] = 0
    columns = torch.arange(6)[None]
    mask = with_key_bias(None, key_bias(kept), columns, torch.float32)
    soft = (logits + mask).softmax(-1) @ values
    left = kept[0].bool()
    hard = logits[..., left].masked_fill(~causal(columns, columns)[..., left], -torch.inf)
    hard = hard.softmax(-1) @ values[..., left, :]
    assert (soft - hard)[..., 3:, :].abs().max() < 1e-5


def test_the_gradient_at_a_dropped_key_is_finite_and_that_of_the_exact_form():
    """softmax(logits + log c) has the gradient of p * c / sum(p * c), also at c = 0."""
    logits, values = torch.randn(5), torch.randn(5)
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], requires_grad=True)
    biased = (logits + (kept + KEY_BIAS_EPS).log()).softmax(-1) @ values
    exact_weights = logits.exp() * kept
    exact = (exact_weights / exact_weights.sum()) @ values
    expected, = torch.autograd.grad(exact, kept, retain_graph=True)
    got, = torch.autograd.grad(biased, kept)
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_window_counts_original_positions():
    allowed = causal(torch.tensor([[9]]), torch.tensor([[0, 5, 6, 9]]), window=4)
    assert allowed[0, 0, 0].tolist() == [False, False, True, True]
