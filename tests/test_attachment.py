"""What happens to a model and its caches while a plug-in is attached, beyond running forwards."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

import rcp
from tests.decoding import dropped, error, family, generated, plugin_for, prompt_ends
from tests.families import FAMILIES, Sample
from tests.tiny import attention_spec, rcp_spec

TOLERANCE = 1e-5  # fp32, relative; what is dropped moves logits by more than 0.1
RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
WATCHING = rcp.PluginSpec([rcp.StageSpec(0, 0.5, "cls_attention"), rcp.StageSpec(3, 0.2, "random")])


@pytest.fixture
def case():
    return family("llava-llama")


# -- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [rcp_spec(), WATCHING], ids=["rcp", "watching"])
def test_a_copied_model_has_an_attachment_of_its_own(case, spec):
    inputs = case.inputs(RAGGED)
    full = generated(case, inputs).sequences
    with rcp.attach(case.model, plugin_for(case, spec)):
        pruned = generated(case, inputs)
        twin = replace(case, model=copy.deepcopy(case.model))
    assert torch.equal(generated(case, inputs).sequences, full)
    again = generated(twin, inputs)
    assert torch.equal(torch.stack(again.logits), torch.stack(pruned.logits))


def test_low_rank_adapters_are_copied_with_the_model(case):
    spec = replace(attention_spec(), lora=rcp.LoraSpec(rank=2))
    plugin, inputs = plugin_for(case, spec), case.inputs(RAGGED)
    with rcp.attach(case.model, plugin):
        pruned = generated(case, inputs).logits
        twin = replace(case, model=copy.deepcopy(case.model))
    for parameter in plugin.lora.parameters():
        parameter.data.zero_()
    assert torch.equal(torch.stack(generated(twin, inputs).logits), torch.stack(pruned))


@torch.no_grad()
def test_caches_can_be_pickled(case):
    inputs, token = case.inputs(RAGGED), torch.full((3, 1), 20)
    with rcp.attach(case.model, plugin_for(case, rcp_spec())):
        cache = case.model(**inputs).past_key_values
        twin = pickle.loads(pickle.dumps(cache))
        logits = [case.model(input_ids=token, past_key_values=c).logits for c in (cache, twin)]
    assert torch.equal(*logits)


@torch.no_grad()
def test_a_forward_that_failed_is_over(case):
    """Else the decoder, called by itself, would go on with it."""
    inputs, decoder = case.inputs([Sample(3)]), case.model.get_decoder()
    embeds = case.model.get_input_embeddings()(inputs["input_ids"])
    alone = decoder(inputs_embeds=embeds).last_hidden_state
    with rcp.attach(case.model, plugin_for(case, rcp_spec())):
        hook = case.model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            case.model(**inputs)
        hook.remove()
        assert torch.equal(decoder(inputs_embeds=embeds).last_hidden_state, alone)


@torch.no_grad()
def test_a_cache_carries_a_plan_once_an_image_was_pruned_on_it(case):
    with rcp.attach(case.model, plugin_for(case, rcp_spec())) as handle, handle.trace() as trace:
        caches = [case.model(**case.inputs([Sample(3, images=n)])).past_key_values for n in (0, 1)]
    assert torch.equal(rcp.plan_of(caches[1]).alive, trace.plan.alive)
    for cache in (None, DynamicCache(), caches[0]):
        with pytest.raises(rcp.UserError, match="carries no keep plan"):
            rcp.plan_of(cache)


@torch.no_grad()
def test_one_prompt_may_be_continued_many_times(case):
    inputs, token = case.inputs([Sample(3)]), torch.tensor([[20], [21], [22]])
    with rcp.attach(case.model, plugin_for(case, rcp_spec(layers=(0, 3)))):
        alone = []
        for row in token:
            cache = case.model(**inputs).past_key_values
            alone += [case.model(input_ids=row[None], past_key_values=cache).logits]
        cache = case.model(**inputs).past_key_values
        cache.batch_repeat_interleave(3)
        together = case.model(input_ids=token, past_key_values=cache).logits
        assert error(together, torch.cat(alone)) < TOLERANCE
        with pytest.raises(rcp.UserError, match="filled with 3 samples, but the forward has 2"):
            case.model(input_ids=token[:2], past_key_values=cache)


@torch.no_grad()
def test_one_prompt_may_be_continued_with_further_images(case):
    """Each with an image of its own; the plan of the prompt is then a plan of all of them."""
    # equally long: with padding inside, a forward by hand would need position ids
    first, turns = case.inputs([Sample(3)]), [Sample(4, question=7), Sample(5)]

    def continued(samples):
        cache = case.model(**first).past_key_values
        cache.batch_repeat_interleave(len(samples))
        inputs = case.inputs(samples)
        before = first["attention_mask"].expand(len(samples), -1)
        mask = torch.cat([before, inputs["attention_mask"]], 1)
        output = case.model(**inputs | {"attention_mask": mask}, past_key_values=cache)
        return output.logits[:, -1], rcp.plan_of(cache)

    with rcp.attach(case.model, plugin_for(case, rcp_spec())):
        alone = [continued([turn]) for turn in turns]
        logits, plan = continued(turns)
    assert error(logits, torch.cat([logits for logits, _ in alone])) < TOLERANCE
    assert torch.equal(plan.alive, torch.cat([plan.alive for _, plan in alone], 1))


# -- compilation ---------------------------------------------------------------------------------


@pytest.mark.slow  # compiles a model three times
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_compiled_model_drops_while_a_plugin_is_attached_and_only_then():
    case = FAMILIES["llava-llama"]()
    plugin, inputs = plugin_for(case, rcp_spec()), case.inputs(RAGGED)
    full, pruned = case.model(**inputs).logits, dropped(case, plugin, inputs).logits[0]
    compiled = torch.compile(case.model, backend="eager")
    assert error(compiled(**inputs).logits, full) < TOLERANCE
    with rcp.attach(compiled, plugin):
        assert error(compiled(**inputs).logits[:, -1], pruned) < TOLERANCE
    assert error(compiled(**inputs).logits, full) < TOLERANCE


# -- what a forward is asked for -----------------------------------------------------------------


@torch.no_grad()
def test_fewer_logits_are_the_last_of_all_of_them(case):
    """Only `generate` verifies candidates by asking for several; a forward is all prompt."""
    inputs = case.inputs(RAGGED)
    with rcp.attach(case.model, plugin_for(case, rcp_spec())):
        logits = case.model(**inputs).logits
        for kept in (1, 3):
            fewer = case.model(**inputs, logits_to_keep=kept).logits
            assert error(fewer, logits[:, -kept:]) < TOLERANCE


def test_dropping_knows_no_dropout(case):
    """A plug-in fresh from `for_model` is in training mode."""
    inputs, plugin = case.inputs(RAGGED), plugin_for(case, rcp_spec())
    expected = dropped(case, plugin, inputs).sequences
    assert torch.equal(dropped(case, plugin.train(), inputs).sequences, expected)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a/folder", rcp_spec()], ids=["path", "spec"])
def test_what_is_no_plugin_is_refused(case, given):
    with pytest.raises(rcp.UserError, match="rcp.load_plugin"):
        rcp.attach(case.model, given)


@pytest.mark.parametrize("length", [-5, 0, 1000])
def test_a_prompt_that_ends_outside_the_forward_is_refused(case, length):
    """The question would be empty, or what was generated a part of it, and nobody would know."""
    with rcp.attach(case.model, plugin_for(case, rcp_spec()), "soft") as handle:
        with handle.prompt(length), pytest.raises(rcp.UserError, match=f"column {length}: this"):
            case.model(**case.inputs(RAGGED))


def test_a_second_plugin_is_refused_on_the_model_inside_too(case):
    plugin = plugin_for(case, rcp_spec())
    plugin.base = None
    with rcp.attach(case.model, plugin):
        with pytest.raises(rcp.UserError, match="already has a plug-in"):
            rcp.attach(case.model.model, plugin)


@torch.no_grad()
def test_a_plan_of_something_else_is_refused(case):
    inputs = case.inputs(RAGGED)
    plan = rcp.plan_of(dropped(case, plugin_for(case, rcp_spec()), inputs).past_key_values)
    with pytest.raises(rcp.UserError, match=r"made at layers \[1, 3\]"):
        rcp.attach(case.model, plugin_for(case, rcp_spec(layers=(0, 3))), plan=plan)
    others = {
        "of 3 samples": case.inputs(RAGGED[:2]),
        "other columns": case.inputs(RAGGED, padding="right"),
    }
    for mode in ("drop", "soft"):
        for message, other in others.items():
            with rcp.attach(case.model, plugin_for(case, rcp_spec()), mode, plan=plan) as handle:
                with handle.prompt(prompt_ends(other)):
                    with pytest.raises(rcp.UserError, match=message):
                        case.model(**other)


@pytest.mark.parametrize("mode", ["drop", "soft"])
@torch.no_grad()
def test_a_plan_of_text_alone_replays(case, mode):
    inputs = case.inputs([Sample(3, images=0)])
    plugin = plugin_for(case, rcp_spec())
    full = case.model(**inputs).logits
    with rcp.attach(case.model, plugin, "drop") as handle, handle.trace() as trace:
        case.model(**inputs)
    plan = trace.plan
    assert plan.layers == ()
    with rcp.attach(case.model, plugin, mode, plan=plan) as handle, handle.prompt(9):
        assert error(case.model(**inputs).logits, full) < TOLERANCE
