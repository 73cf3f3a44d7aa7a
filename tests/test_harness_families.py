"""The log-probability of a continuation, on every family: what `generate` said of its tokens."""

import pytest
import torch

from rcp import PluginSpec, StageSpec, attach
from rcp.harness.likelihood import likelihoods
from tests.decoding import REFERENCES, TOKEN_TYPES, family, generated, plugin_for
from tests.families import ENTRY_FAMILIES, FAMILIES, Sample

STEPS = 3
SAMPLES = (Sample(3, images=2), Sample(4, question=3))
BEFORE = PluginSpec([StageSpec(0, 0.5, "uniform")])


def assert_is_what_was_generated(name, spec):
    """One forward over prompts and answers, against the logits of each step of a generation."""
    case = family(name)
    inputs = case.inputs(SAMPLES)
    with attach(case.model, plugin_for(case, spec), "drop") as handle, torch.no_grad():
        output = generated(case, inputs, steps=STEPS)
        tokens = output.sequences[:, -STEPS:]
        kind = 1 if case.model.config.model_type == "paligemma" else 0
        added = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        added |= {key: torch.full_like(tokens, kind) for key in TOKEN_TYPES if key in inputs}
        whole = inputs | {
            key: torch.cat([inputs[key], value.to(inputs[key])], 1) for key, value in added.items()
        }
        lengths = [STEPS, STEPS]
        found = likelihoods(case.model, handle, whole, lengths)
    for row, length in enumerate(lengths):
        scores = torch.stack([step[row] for step in output.logits]).log_softmax(-1)[-length:]
        said = tokens[row, -length:]
        expected = scores.gather(1, said[:, None]).sum().item()
        assert found[row].log_probability == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert found[row].greedy == torch.equal(scores.argmax(-1), said)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_a_plugin_inside_the_decoder(name):
    assert_is_what_was_generated(name, REFERENCES["rcp"]())


@pytest.mark.parametrize("name", [*ENTRY_FAMILIES, "llava-llama", "qwen3_vl"])
def test_of_a_plugin_before_the_decoder(name):
    assert_is_what_was_generated(name, BEFORE)
