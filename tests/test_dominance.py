"""The dominance metrics against their definition, on a model's own attention."""

import pytest
import torch

from rcp.evaluation.metrics.dominance import TextDominance
from tests.tiny import IMAGE, tiny_inputs, tiny_llava_model


def test_indices_follow_their_definition_over_batches():
    model = tiny_llava_model()
    model.set_attn_implementation("eager")
    metric = TextDominance()
    attention_of, tokens_of = [0.0, 0.0], [0, 0]
    for questions, images in (((5, 7), (1, 1)), ((4, 9), (1, 2))):
        inputs = tiny_inputs(questions=questions, images=images)
        with torch.no_grad():
            attention = model(**inputs, output_attentions=True).attentions[3]
        visual = inputs["input_ids"] == IMAGE
        text = inputs["attention_mask"].bool() & ~visual
        rows = torch.zeros_like(text)
        rows[:, -3:] = True
        metric.update(attention, rows, text, visual)
        for sample in range(2):
            for row in range(text.shape[1] - 3, text.shape[1]):
                for key in range(row + 1):
                    for index, modality in enumerate((text, visual)):
                        if modality[sample, key]:
                            weight = attention[sample, :, row, key].mean().item()
                            attention_of[index] += weight
                            tokens_of[index] += 1
    found = metric.compute()
    per_token = [a / n for a, n in zip(attention_of, tokens_of)]
    assert found["mdi"].item() == pytest.approx(per_token[0] / per_token[1], rel=1e-6)
    shares = [a / sum(attention_of) for a in attention_of]
    portions = [n / sum(tokens_of) for n in tokens_of]
    assert found["aei_text"].item() == pytest.approx(shares[0] / portions[0], rel=1e-6)
    assert found["aei_visual"].item() == pytest.approx(shares[1] / portions[1], rel=1e-6)


def test_equal_attention_is_balance_and_no_image_is_no_number():
    causal = torch.ones(1, 2, 4, 4).tril()
    metric = TextDominance()
    every = torch.ones(1, 4, dtype=torch.bool)
    visual = torch.tensor([[False, True, True, False]])
    rows = torch.tensor([[False, False, False, True]])
    metric.update(causal / 4, rows, every & ~visual, visual)
    assert all(value.item() == pytest.approx(1) for value in metric.compute().values())
    metric.reset()
    metric.update(causal / 4, rows, every, visual & False)
    assert metric.compute()["mdi"].isnan()
