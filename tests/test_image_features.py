"""Images encoded outside the forward that would encode them change nothing, in any family."""

import pytest
import torch

from rcp import Plugin, PluginSpec, StageSpec, UserError, attach
from rcp.attaching.given_images import ENCODER, encode_images, given_images
from rcp.evaluation.preparation import with_encoded_images
from tests.decoding import dropped, family, generated, plugin_for
from tests.families import FAMILIES, Sample
from tests.tiny import attention_spec

RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))


@torch.no_grad()
def logits(model, inputs):
    if hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = None  # of the last call
    return model(**inputs).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_prepared_for_evaluation_is_answered_as_its_pixels_are(name):
    """Features and positions: those of M-RoPE need the shapes of images long encoded."""
    case = family(name)
    inputs = case.inputs(RAGGED)
    prepared = with_encoded_images(case.model, inputs)
    assert "pixel_values" not in prepared
    assert torch.equal(logits(case.model, prepared), logits(case.model, inputs))
    said, expected = (generated(case, given, 2) for given in (prepared, inputs))
    assert torch.equal(torch.stack(said.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen3_vl"])
def test_a_plugin_drops_the_same_of_a_prepared_batch(name):
    case = family(name)
    plugin = plugin_for(case, attention_spec(layers=(0, 3)))
    inputs = case.inputs(RAGGED)
    prepared = with_encoded_images(case.model, inputs)
    said, expected = (dropped(case, plugin, given, steps=2) for given in (prepared, inputs))
    assert torch.equal(torch.stack(said.logits), torch.stack(expected.logits))


def test_given_features_and_a_watching_plugin_leave_each_other_in_place():
    case = family("llava-llama")
    host, inputs = case.model.base_model, case.inputs(RAGGED)
    features = encode_images(case.model, inputs)
    spec = PluginSpec([StageSpec(0, 0.5, "cls_attention")])
    plugin = Plugin.for_model(spec, case.model)
    with attach(case.model, plugin, "drop"):
        watching = vars(host)[ENCODER]
        with given_images(case.model, features):
            assert vars(host)[ENCODER] is not watching
        assert vars(host)[ENCODER] is watching
    with given_images(case.model, features):
        given = vars(host)[ENCODER]
        with attach(case.model, plugin, "drop"):
            assert vars(host)[ENCODER] is not given
        assert vars(host)[ENCODER] is given
    assert ENCODER not in vars(host)


def test_a_replayed_plan_asks_nothing_of_images_encoded_before():
    """Who would have chosen is not asked, so that features need no facts on them."""
    case = family("llava-llama")
    inputs = case.inputs(RAGGED)
    plugin = Plugin.for_model(PluginSpec([StageSpec(0, 0.5, "cls_attention")]), case.model)
    with attach(case.model, plugin, "drop") as handle, handle.trace() as trace:
        wanted = logits(case.model, inputs)
    features = encode_images(case.model, inputs)
    with given_images(case.model, features):
        with attach(case.model, plugin, "drop", plan=trace.plan):
            assert torch.equal(logits(case.model, inputs), wanted)
        with attach(case.model, plugin, "drop"), pytest.raises(UserError, match="cls_attention"):
            logits(case.model, inputs)
