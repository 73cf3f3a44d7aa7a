"""How much tokens matter to the answer: against finite differences and eager attention."""

import pytest
import torch

import rcp
from rcp.attaching.masks import additive, causal
from rcp.objectives.labels import relevance_labels
from rcp.objectives.losses import ranking_loss
from rcp.objectives.relevance import relevance
from tests.tiny import TOKENS, reference_plugin, tiny_inputs


def traced(model, inputs, layers=range(6)):
    """Relevance, and the log-likelihood it is of: of token 7 after the last prompt token."""
    plugin = reference_plugin("question_attention", model)
    with rcp.attach(model, plugin, "record") as handle, handle.trace(biases=layers) as trace:
        likelihood = log_likelihood(model(**inputs, use_cache=False), inputs)
        return relevance(trace, likelihood)


def log_likelihood(output, inputs):
    columns = torch.arange(inputs["attention_mask"].shape[1])
    last = (inputs["attention_mask"] * columns).argmax(1)
    return output.logits.log_softmax(-1)[torch.arange(len(last)), last, 7].sum()


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_is_the_clamped_slope_of_the_answer_in_a_bias_on_the_attention(tiny_llava, side):
    """Central differences at single entries of an explicit mask, fp64."""
    model = tiny_llava.double()
    inputs = tiny_inputs(questions=(4, 6), images=(1, 1), side=side)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    found = traced(model, inputs)
    assert found.shape == (2, 6, TOKENS)
    columns = torch.arange(inputs["input_ids"].shape[1]).expand(2, -1)
    allowed = causal(columns, columns) & inputs["attention_mask"][:, None, None].bool()
    mask = additive(allowed, torch.float64)
    layer, sample = 3, 1
    token = int(found[sample, layer].argmax())
    column = (inputs["input_ids"][sample] == model.config.image_token_id).nonzero()[token, 0]
    step, slopes = 1e-2, []  # the norms are computed in fp32 whatever the model is in

    def biased(row, sign):
        def add(_, args, kwargs):
            changed = mask.clone()
            changed[sample, 0, row, column] += sign * step
            return args, kwargs | {"attention_mask": changed}
        decoder = model.model.language_model.layers[layer]
        hook = decoder.register_forward_pre_hook(add, with_kwargs=True)
        try:
            return log_likelihood(model(**inputs, use_cache=False), inputs)
        finally:
            hook.remove()

    with torch.no_grad():
        for row in range(int(column), columns.shape[1]):
            if inputs["attention_mask"][sample, row]:
                slopes.append((biased(row, 1) - biased(row, -1)) / (2 * step))
    expected = torch.stack(slopes).clamp(min=0).sum()
    assert expected > 1e-7, "nothing to compare"
    assert found[sample, layer, token] == pytest.approx(float(expected), rel=2e-3)


def test_a_leaf_of_zeros_changes_nothing_and_frozen_weights_get_no_gradient(tiny_llava, inputs):
    plain = tiny_llava(**inputs, use_cache=False).logits
    plugin = reference_plugin("question_attention", tiny_llava)
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace(biases=(0, 4)) as trace:
        logits = tiny_llava(**inputs, use_cache=False).logits
    real = inputs["attention_mask"].bool()
    assert (logits - plain)[real].abs().max() < 1e-6
    found = relevance(trace, logits[:, -1].log_softmax(-1)[:, 7].sum())
    assert found.shape[1] == 2 and (found >= 0).all() and found.max() > 0
    assert all(parameter.grad is None for parameter in tiny_llava.parameters())


def test_text_alone_and_missing_images_have_no_relevance(tiny_llava):
    assert traced(tiny_llava, tiny_inputs(questions=(4,), images=(0,))).numel() == 0
    found = traced(tiny_llava, tiny_inputs(questions=(4, 4), images=(2, 1)))
    assert (found[1, :, TOKENS:] == 0).all() and found[0, :, TOKENS:].max() > 0


def test_labels_are_shares_of_what_is_alive_whatever_the_unit():
    values = torch.rand(3, 9, generator=torch.Generator().manual_seed(0))
    alive = torch.ones(3, 9, dtype=torch.bool)
    alive[0, 5:] = False
    values[2] = 0
    labels = relevance_labels(values, alive)
    torch.testing.assert_close(labels.sum(1), torch.tensor([1.0, 1.0, 0.0]))
    assert (labels[0, 5:] == 0).all()
    torch.testing.assert_close(relevance_labels(values * 1e-5, alive), labels)
    torch.testing.assert_close(labels[1], values[1].square() / values[1].square().sum())


def test_the_ranking_loss_is_a_divergence_of_scores_up_to_a_constant():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(2, 6, generator=generator)
    known = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    labels = relevance_labels(labels, known)
    scores = torch.randn(2, 6, generator=generator)
    expected = [
        torch.nn.functional.kl_div(s[k].log_softmax(0), y[k], reduction="sum")
        for s, y, k in zip(scores, labels, known)
    ]
    torch.testing.assert_close(ranking_loss(scores, labels, known), torch.stack(expected).mean())
    perfect = labels.clamp(min=1e-30).log() + 3.0
    assert ranking_loss(perfect, labels, known).abs() < 1e-6
    none = torch.zeros(1, 6)
    with_empty = ranking_loss(torch.cat([scores, none]), torch.cat([labels, none]),
                              torch.cat([known, known[:1]]))
    torch.testing.assert_close(with_empty, torch.stack(expected).mean())
