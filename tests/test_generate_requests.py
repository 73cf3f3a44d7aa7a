"""Other ways of transformers to generate: each works under a plug-in, or is refused by name."""

import copy

import pytest
import torch

from rcp import UserError, attach
from rcp.attaching.generate_guard import refuse_pages
from tests.decoding import dropped, error, family, generated, masked, plugin_for
from tests.families import FAMILIES, Sample
from tests.tiny import rcp_spec

BATCHING = r"Continuous batching \(generate_batch\) .*Use generate, .*or detach the plug-in"


@pytest.fixture
def case():
    return family("llava-llama")


@pytest.fixture
def inputs(case):
    return case.inputs([Sample(3)])


@pytest.fixture
def plugin(case):
    return plugin_for(case, rcp_spec())


# -- continuous batching ---------------------------------------------------------------------------

ENTRIES = {
    "generate_batch": lambda model, ids: model.generate_batch([ids], max_new_tokens=2),
    "manager": lambda model, ids: model.init_continuous_batching(),
    "context": lambda model, ids: model.continuous_batching_context_manager().__enter__(),
}


@pytest.mark.parametrize("mode", ["drop", "soft", "record"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_continuous_batching_is_refused_by_name_and_only_while_attached(
    entry, mode, case, inputs, plugin
):
    ids = inputs["input_ids"][0].tolist()
    before = vars(case.model).copy()
    with attach(case.model, plugin, mode), pytest.raises(UserError, match=BATCHING):
        ENTRIES[entry](case.model, ids)
    assert vars(case.model).keys() == before.keys()
    assert case.model.init_continuous_batching() is not None


def test_a_copy_of_an_attached_model_refuses_it_too(case, plugin):
    with attach(case.model, plugin):
        twin = copy.deepcopy(case.model)
    with pytest.raises(UserError, match=BATCHING):
        twin.init_continuous_batching()


@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_a_paged_cache_is_refused(how, case, inputs, plugin):
    options = {"cache_implementation": "paged"}
    if how == "configuration":
        options = {"generation_config": copy.deepcopy(case.model.generation_config)}
        options["generation_config"].cache_implementation = "paged"
    with attach(case.model, plugin), pytest.raises(UserError, match=BATCHING):
        case.model.generate(**inputs, **options)


@pytest.mark.parametrize("mode", ["drop", "soft", "record"])
def test_a_forward_on_pages_is_refused(mode, case, inputs, plugin):
    """As of a manager that was made before the plug-in came."""

    class Pages:
        """Has no ``get_seq_length``, as PagedAttentionCache."""

    with attach(case.model, plugin, mode), pytest.raises(UserError, match=BATCHING):
        case.model(**inputs, past_key_values=Pages())
    refuse_pages(None)


# -- other ways to generate ------------------------------------------------------------------------


def test_a_draft_with_the_first_layers_is_refused(case, inputs, plugin):
    with attach(case.model, plugin), pytest.raises(UserError, match="assistant_early_exit=2"):
        generated(case, inputs, assistant_early_exit=2)


@pytest.mark.parametrize("kind", ["same", "other", "lookup"])
def test_drafted_tokens_are_those_of_greedy_decoding(kind, case, inputs, plugin):
    drafts = {
        "same": {"assistant_model": case.model},
        "other": {"assistant_model": FAMILIES["llava-llama"]().model},
        "lookup": {"prompt_lookup_num_tokens": 3},
    }
    expected = dropped(case, plugin, inputs, steps=6).sequences
    assert torch.equal(dropped(case, plugin, inputs, steps=6, **drafts[kind]).sequences, expected)


def test_guidance_weighs_against_the_pruned_prompt(case, inputs, plugin):
    """By hand: what the last token alone says, moved by half the way to the prompt and beyond."""
    with attach(case.model, plugin):
        scores = generated(case, inputs, steps=1, guidance_scale=1.5, output_scores=True).scores[0]
    with torch.no_grad():
        blind = case.model(input_ids=inputs["input_ids"][:, -1:]).logits[:, -1].log_softmax(-1)
    seeing = dropped(case, plugin, inputs, steps=1).logits[0].log_softmax(-1)
    finite = scores.isfinite()
    expected = blind + 1.5 * (seeing - blind)
    torch.testing.assert_close(scores[finite], expected[finite])


def test_beams_of_a_ragged_batch_are_those_of_the_masked_model(case, plugin):
    inputs = case.inputs([Sample(3), Sample(4, question=3)])
    options = {"steps": 4, "num_beams": 3, "num_return_sequences": 2}
    expected = masked(case, plugin, inputs, **options).sequences
    assert torch.equal(dropped(case, plugin, inputs, **options).sequences, expected)


def test_a_quantised_cache_holds_what_is_left(case, inputs, plugin):
    """The prompt is read before it is rounded, so that the first token is exact."""
    pytest.importorskip("optimum.quanto")
    cache = {"backend": "quanto", "nbits": 4, "q_group_size": 16, "residual_length": 128}
    options = {"cache_implementation": "quantized", "cache_config": cache}
    expected = dropped(case, plugin, inputs, steps=2).logits
    found = dropped(case, plugin, inputs, steps=2, **options).logits
    assert error(found[0], expected[0]) == 0
    assert error(found[1], expected[1]) < 0.2
