"""What the teacher's forward observes, against the model's own eager attention."""

import pytest
import torch

import rcp
from tests.decoding import family, plugin_for
from tests.families import Sample
from tests.probe import probing
from tests.tiny import IMAGE, TOKENS, attention_spec, rcp_spec, reference_plugin, tiny_inputs


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_recorded_attention_is_the_layers_own(tiny_llava, side):
    """Mean over heads and question rows of what eager attention returns, at every layer."""
    inputs = tiny_inputs(questions=(4, 6), images=(2, 1), side=side)
    plugin = reference_plugin("question_attention", tiny_llava)
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace(range(6)) as trace:
        tiny_llava(**inputs, use_cache=False)
    assert list(trace.question_attention) == list(range(6))
    tiny_llava.set_attn_implementation("eager")
    attentions = tiny_llava(**inputs, output_attentions=True).attentions
    for row, length in enumerate((4, 6)):
        columns = inputs["attention_mask"][row].nonzero()[:, 0]
        image = columns[inputs["input_ids"][row, columns] == IMAGE]
        # one more: the separator behind the last image belongs to the question
        question = columns[-length - 1 :]
        for layer, attention in enumerate(attentions):
            expected = attention[row].mean(0)[question][:, image].mean(0)
            found = trace.question_attention[layer][row, : len(image)]
            assert (found - expected).abs().max() < 1e-6
            assert expected.std() > 1e-4, "a flat attention would make this vacuous"


def test_a_recorded_view_is_what_the_first_stage_sees(tiny_llava, inputs):
    """Scores computed beside the teacher are those of the pruner at its place."""
    plugin = reference_plugin("rcp", tiny_llava, layers=(0, 3))
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace((), (0, 3)) as trace:
        tiny_llava(**inputs)
    assert trace.views[3].visual.shape[1] == TOKENS
    scores = plugin.pruner(0)(trace.views[0])
    with rcp.attach(tiny_llava, plugin, "soft", relaxation=rcp.Relaxation()) as handle:
        with handle.trace() as seen:
            tiny_llava(**inputs)
    assert (scores - seen.scores[0]).abs().max() < 1e-6


def test_a_recorded_view_looks_back_as_a_stage_does(tiny_llava, inputs):
    plugin, probes = probing(tiny_llava, ["attention_before"], layers=(2,), ratios=(0.5,))
    with rcp.attach(tiny_llava, plugin, "drop"):
        tiny_llava(**inputs)
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace((), (2,)) as trace:
        tiny_llava(**inputs)
    seen, recorded = probes[2].views[0], trace.views[2]
    for queries in ("question", "last", "visual"):
        expected = seen.attention_before(queries)
        assert expected.any() and torch.equal(recorded.attention_before(queries), expected)


def test_nothing_is_observed_that_was_not_asked_for(tiny_llava, inputs):
    plugin = rcp.Plugin.for_model(attention_spec(), tiny_llava)
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace() as trace:
        tiny_llava(**inputs)
    assert trace.question_attention == {} and trace.views == {}


def test_a_batch_without_images_still_has_a_view_to_score(tiny_llava):
    """One dead slot: data-parallel training waits for a gradient of every pruner."""
    plugin = reference_plugin("rcp", tiny_llava, layers=(0, 3))
    with rcp.attach(tiny_llava, plugin, "record") as handle, handle.trace((1,), (0,)) as trace:
        tiny_llava(**tiny_inputs(questions=(4,), images=(0,)))
    assert trace.views[0].alive.tolist() == [[False]]
    assert trace.question_attention[1].tolist() == [[0.0]]
    assert plugin.pruner(0)(trace.views[0]).isfinite().all()


def test_what_enters_a_decoder_is_looked_at_from_before_it():
    """Its view is the stage's own, and a gradient reaches the rows that entered."""
    case = family("llama4")
    plugin = plugin_for(case, rcp_spec(layers=(0,), ratios=(0.4,), repair=()))
    inputs = case.inputs([Sample(3), Sample(4, question=7)])
    with rcp.attach(case.model, plugin, "record") as handle:
        with handle.trace(views=[0], enters=True) as recorded:
            case.model(**inputs).logits.square().mean().backward()
    assert recorded.entered.grad.abs().sum(-1).gt(0).any(1).all()
    assert recorded.visual_columns.shape == recorded.views[0].alive.shape
    with rcp.attach(case.model, plugin, "drop") as handle, handle.trace(views=[0]) as dropped:
        with torch.no_grad():
            case.model(**inputs)
    one, other = (plugin.pruner(0)(trace.views[0]) for trace in (recorded, dropped))
    assert one.std() > 1e-3 and torch.equal(one, other)
