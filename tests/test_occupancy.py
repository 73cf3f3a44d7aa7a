"""Which tokens a prefill held and where they lie: against a choice made by hand."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import rcp
from rcp.backbones import backbone_for
from rcp.evaluation.metrics.occupancy import Occupancy, occupancies
from rcp.evaluation.places import places_of
from tests.families import FAMILIES, Sample
from tests.tiny import TOKENS, reference_plugin, tiny_inputs

DEPTH, LAYERS = 6, (1, 4)


def prefilled(model, plugin, inputs, plan=None):
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), rcp.attach(model, plugin, "drop", plan=plan) as handle:
        with handle.trace() as trace:
            model(**inputs, past_key_values=cache)
    return cache, trace.plan


def test_what_is_alive_is_numbered_among_a_samples_own_visual_tokens(tiny_llava):
    """Three samples of two images, one and none, padded; all but a few tokens are taken out."""
    inputs = tiny_inputs(questions=(5, 7, 4), images=(2, 1, 0))
    plugin = reference_plugin("question_attention", tiny_llava, layers=LAYERS)
    _, plan = prefilled(tiny_llava, plugin, inputs)
    chosen = [[[0, 3, TOKENS + 2], [3, TOKENS + 2]], [[1, 5], [5]], [[], []]]
    for row, stages in enumerate(chosen):
        columns = plan.visual[row].nonzero()[:, 0]
        for stage, wanted in enumerate(stages):
            plan.alive[stage, row, columns] = False
            plan.alive[stage, row, columns[wanted]] = True
    cache, _ = prefilled(tiny_llava, plugin, inputs, plan)
    found = occupancies(backbone_for(tiny_llava), inputs, cache, LAYERS)
    assert [[stage.tolist() for stage in one.kept] for one in found] == chosen
    assert [one.visual for one in found] == [2 * TOKENS, TOKENS, 0]
    assert {one.layers for one in found} == {LAYERS}
    valid = inputs["attention_mask"].sum(1).tolist()
    assert [one.text + one.visual for one in found] == valid
    text = found[0].text
    assert found[0].visual_rows(DEPTH) == [2 * TOKENS, 3, 3, 3, 2, 2]
    assert found[1].rows(DEPTH) == [found[1].text + n for n in (TOKENS, 2, 2, 2, 1, 1)]
    assert found[0].rows(DEPTH)[-1] == text + 2


def test_text_alone_has_stages_that_keep_nothing(tiny_llava):
    inputs = tiny_inputs(images=(0, 0))
    plugin = reference_plugin("question_attention", tiny_llava, layers=LAYERS)
    cache, _ = prefilled(tiny_llava, plugin, inputs)
    for one in occupancies(backbone_for(tiny_llava), inputs, cache, LAYERS):
        assert one.layers == LAYERS and [len(stage) for stage in one.kept] == [0, 0]
        assert one.visual_rows(DEPTH) == [0] * DEPTH


def test_without_a_plugin_all_are_alive_everywhere(tiny_llava):
    found = occupancies(backbone_for(tiny_llava), tiny_inputs(), None)
    assert [one.visual_rows(DEPTH) for one in found] == [[TOKENS] * DEPTH] * 2
    assert found[0] == Occupancy(found[0].text, TOKENS)


def test_places_are_those_of_each_samples_own_tokens(tiny_llava):
    inputs = tiny_inputs(questions=(5, 7, 4), images=(2, 1, 0))
    side = round(TOKENS**0.5)
    centres = (np.arange(side) + 0.5) / side * 2 - 1
    raster = [[y, x] for y in centres for x in centres]
    for found, images in zip(places_of(backbone_for(tiny_llava), inputs), (2, 1, 0), strict=True):
        assert found.image_index.tolist() == [n for n in range(images) for _ in range(TOKENS)]
        assert np.allclose(found.grid, np.array(raster * images).reshape(-1, 2))
        assert found.grid.dtype == np.float32 and found.image_index.dtype == np.int64


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_where_its_tokens_lie(name):
    """As many places as visual tokens, in the range of its images, and nothing left attached."""
    case = FAMILIES[name]()
    backbone = backbone_for(case.model)
    inputs = case.inputs([Sample(0), Sample(1, images=2)])
    counts = [one.visual for one in occupancies(backbone, inputs, None)]
    found = places_of(backbone, inputs)
    assert [len(one.grid) for one in found] == [len(one.image_index) for one in found] == counts
    for one in found:
        assert one.image_index.min() == 0
        placed = one.grid[~np.isnan(one.grid).any(1)]
        assert (np.abs(placed) <= 1).all()
    assert not backbone.decoder._forward_pre_hooks
