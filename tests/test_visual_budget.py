"""``model.generate(..., visual_budget=...)``: the budget of one call, for all rows or for each."""

import copy

import numpy as np
import pytest
import torch

from rcp import PluginSpec, RepairSpec, Schedule, StageSpec, UserError, attach, plan_of
from rcp.choosing.schedule import by_row
from tests.decoding import TOLERANCE, error, family, generated, plugin_for
from tests.families import Sample
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS

SAMPLES = [Sample(3), Sample(4, question=3), Sample(2, question=9)]
BUDGETS = [0.5, 0.25, 0.75]


def untrained(*layers, method="question_attention"):
    return PluginSpec([StageSpec(at, 0.6 - 0.2 * n, method) for n, at in enumerate(layers)])


def many_budgets(*layers, policy="keep"):
    stages = [StageSpec(at, 0.6 - 0.2 * n, "rcp", RCP_ARGUMENTS) for n, at in enumerate(layers)]
    repair = RepairSpec([3], "film", FILM_ARGUMENTS)
    return PluginSpec(stages, repair, position_policy=policy, budgets=[0.2, 0.8])


SPECS = {
    "before the decoder": lambda: untrained(0),
    "inside": lambda: untrained(1),
    "stages": lambda: untrained(0, 2),
    "merging": lambda: untrained(0, method="evit"),
    "greedy": lambda: untrained(0, method="divprune"),
    "trained": lambda: many_budgets(0, 3),
    "trained inside": lambda: many_budgets(1, 3),
    "repacked": lambda: many_budgets(0, 3, policy="repack"),
}


@pytest.fixture
def case():
    return family("llava-llama")


@pytest.fixture
def inputs(case):
    return case.inputs(SAMPLES[:1])


def attached_at(case, plugin, inputs, budget, **options):
    with attach(case.model, plugin, budget=budget):
        return generated(case, inputs, **options)


def assert_same(found, expected, rows=slice(None)) -> None:
    """The rows ``rows`` of what was ``found`` are all of what was ``expected``."""
    width = expected.sequences.shape[1]
    new = len(expected.logits)
    assert torch.equal(found.sequences[rows, -new:], expected.sequences[:, width - new :])
    logits = torch.stack(found.logits)[:, rows]
    assert error(logits, torch.stack(expected.logits)) < TOLERANCE


# -- one number ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_the_budget_of_a_call_is_that_of_an_attachment(case, inputs, name):
    """Also where another one is attached; and afterwards that one counts again."""
    plugin = plugin_for(case, SPECS[name]())
    expected = {b: attached_at(case, plugin, inputs, b) for b in (None, 0.3, 0.5, 0.79)}
    assert error(expected[0.3].logits[0], expected[0.79].logits[0]) > 0.01
    for attached in (None, 0.79):  # at 0.79 the first stage of some keeps everything
        with attach(case.model, plugin, budget=attached):
            for asked in (0.3, 0.5):
                assert_same(generated(case, inputs, visual_budget=asked), expected[asked])
                assert_same(generated(case, inputs), expected[attached])
            assert_same(generated(case, inputs, visual_budget=None), expected[attached])


@pytest.mark.parametrize(
    "budget", [4, 4.0, torch.tensor(4), np.float32(4), [4], (4,), torch.tensor([4]), [0.25]]
)
def test_a_budget_is_a_number_of_tokens_or_a_share(case, inputs, budget):
    """Of the 16 tokens of an image."""
    plugin = plugin_for(case, untrained(0))
    with attach(case.model, plugin):
        found = generated(case, inputs, visual_budget=budget)
    assert plan_of(found.past_key_values).kept.tolist() == [[4]]


def test_counts_by_hand(case):
    """The second stage halves: of 16 tokens and six layers, 6 in the mean are 8, 8, 8, 4, 4, 4."""
    stages = [StageSpec(0, 0.8, "uniform"), StageSpec(3, 0.4, "uniform")]
    plugin = plugin_for(case, PluginSpec(stages))
    inputs = case.inputs(SAMPLES[:2])
    with attach(case.model, plugin, budget=0.9):
        found = generated(case, inputs, visual_budget=[6, 3])
    assert plan_of(found.past_key_values).kept.tolist() == [[8, 4], [4, 2]]


# -- one a row -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_rows_of_different_budgets_are_those_alone(case, name):
    plugin = plugin_for(case, SPECS[name]())
    with attach(case.model, plugin):
        together = generated(case, case.inputs(SAMPLES), visual_budget=torch.tensor(BUDGETS))
    for row, (sample, budget) in enumerate(zip(SAMPLES, BUDGETS)):
        alone = attached_at(case, plugin, case.inputs([sample]), budget)
        assert_same(together, alone, slice(row, row + 1))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "llava_next"])
def test_rows_of_different_budgets_in_other_families(name):
    """Several positions a token, sliding windows, images of different size."""
    case = family(name)
    for spec in (untrained(0), many_budgets(1, 3)):
        plugin = plugin_for(case, spec)
        with attach(case.model, plugin):
            together = generated(case, case.inputs(SAMPLES), visual_budget=BUDGETS)
        for row, (sample, budget) in enumerate(zip(SAMPLES, BUDGETS)):
            alone = attached_at(case, plugin, case.inputs([sample]), budget)
            assert_same(together, alone, slice(row, row + 1))


def test_a_row_without_an_image_has_nothing_to_keep(case):
    samples = [SAMPLES[0], Sample(5, images=0), Sample(6, images=2)]
    plugin = plugin_for(case, untrained(0))
    with attach(case.model, plugin):
        found = generated(case, case.inputs(samples), visual_budget=[0.25, 0.5, 0.75])
    assert plan_of(found.past_key_values).kept.tolist() == [[4, 0, 24]]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "top_k": 1}])
def test_beams_and_several_answers_have_the_budget_of_their_prompt(case, options):
    plugin = plugin_for(case, many_budgets(0, 3))
    options = options | {"num_return_sequences": 2, "steps": 3}
    with attach(case.model, plugin):
        found = generated(case, case.inputs(SAMPLES[:2]), visual_budget=BUDGETS[:2], **options)
    for row, (sample, budget) in enumerate(zip(SAMPLES, BUDGETS[:2])):
        alone = attached_at(case, plugin, case.inputs([sample]), budget, **options)
        assert torch.equal(found.sequences[2 * row : 2 * row + 2, -3:], alone.sequences[:, -3:])


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_a_static_cache_serves_them_too(case, cache):
    plugin = plugin_for(case, untrained(0))
    with attach(case.model, plugin):
        found = generated(
            case, case.inputs(SAMPLES), visual_budget=BUDGETS, cache_implementation=cache
        )
    for row, (sample, budget) in enumerate(zip(SAMPLES, BUDGETS)):
        alone = attached_at(case, plugin, case.inputs([sample]), budget)
        assert_same(found, alone, slice(row, row + 1))


def test_a_draft_of_the_same_model_is_under_the_same_budget(case, inputs):
    plugin = plugin_for(case, many_budgets(0, 3))
    expected = attached_at(case, plugin, inputs, 0.3, steps=6).sequences
    kept = []
    with attach(case.model, plugin) as handle:
        begin = handle._relay.begin

        def noted(*arguments):
            begin(*arguments)
            kept.append(handle._relay.running.survivors.counts)

        handle._hooks[0].remove()
        handle._before(case.model, noted)
        found = generated(
            case, inputs, steps=6, visual_budget=0.3, assistant_model=case.model
        ).sequences
    assert torch.equal(found, expected)
    assert {counts[0][0] for counts in kept if counts[0][0]} == {kept[0][0][0]}


# -- another one for each call ---------------------------------------------------------------------


def test_a_call_that_fails_leaves_the_budget_as_it_was(case, inputs):
    plugin = plugin_for(case, many_budgets(1, 3))
    expected = attached_at(case, plugin, inputs, 0.5)

    def failing(*_):
        raise RuntimeError("in the middle")

    with attach(case.model, plugin, budget=0.5):
        with pytest.raises(RuntimeError, match="in the middle"):
            generated(case, inputs, visual_budget=0.3, logits_processor=[failing])
        for wrong in (0.9, "many", [0.3, 0.3]):
            with pytest.raises(UserError):
                generated(case, inputs, visual_budget=wrong)
        assert_same(generated(case, inputs), expected)
        with torch.no_grad():
            logits = case.model(**inputs).logits[:, -1]
        assert error(logits, expected.logits[0]) < TOLERANCE


def test_a_copy_of_an_attached_model_takes_it_too(case, inputs):
    plugin = plugin_for(case, untrained(0))
    expected = attached_at(case, plugin, inputs, 0.25)
    with attach(case.model, plugin):
        twin = copy.deepcopy(case.model)
    assert torch.equal(
        twin.generate(
            **inputs, visual_budget=0.25, max_new_tokens=4, min_new_tokens=4, pad_token_id=0,
            suppress_tokens=list(case.never), eos_token_id=None, do_sample=False,
        ),
        expected.sequences,
    )


# -- refused by name -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "soft", "record", "gone"])
def test_without_a_plugin_that_drops_it_is_refused(case, inputs, mode):
    """By transformers, which lists what nobody takes."""
    plugin = plugin_for(case, untrained(0))
    handle = attach(case.model, plugin, mode if mode in ("soft", "record") else "drop")
    if mode in ("none", "gone"):
        handle.remove()
    with pytest.raises(ValueError, match="visual_budget"):
        generated(case, inputs, visual_budget=4)
    handle.remove()


@pytest.mark.parametrize(
    "budget, message",
    [
        (0.1, r"visual_budget is 0.1\. .*trained for, which is budgets of 20.00% to 80.00%"),
        (15, r"visual_budget is 15\. .*trained for, which is budgets of"),
        (17, r"visual_budget is 17\. .*this model has 16, so 1 to 16 are allowed"),
        (0, r"visual_budget is 0\. A budget of 0 visual tokens is impossible"),
        (-0.5, "visual_budget is -0.5"),
        (float("nan"), "visual_budget is nan"),
        (float("inf"), "visual_budget is inf"),
        ("64", "visual_budget is '64': give visual tokens"),
        (True, "visual_budget is True: give"),
        ([[4]], r"visual_budget\[0\] is \[4\]: give"),
        ([None], r"visual_budget\[0\] is None: give"),
        ([4, 4], "visual_budget has 2 numbers, but the batch has 1 rows"),
        ([], "visual_budget has 0 numbers"),
        (torch.tensor([0.1]), r"visual_budget\[0\] is 0.1\. "),
        ({"a": 1}, "visual_budget is {'a': 1}: give"),
    ],
)
def test_what_is_no_budget_of_the_plugin_is_refused(case, inputs, budget, message):
    plugin = plugin_for(case, many_budgets(0, 3))
    with attach(case.model, plugin), pytest.raises(UserError, match=message):
        case.model.generate(**inputs, visual_budget=budget, max_new_tokens=1)


def test_a_plugin_of_one_budget_has_only_that(case, inputs):
    spec = many_budgets(0, 3)
    spec.budgets = None
    plugin = plugin_for(case, spec)
    with attach(case.model, plugin):
        expected = generated(case, inputs)
        assert_same(generated(case, inputs, visual_budget=plugin.mean_ratio), expected)
        with pytest.raises(UserError, match="visual_budget is 0.3. .*the one budget of"):
            generated(case, inputs, visual_budget=0.3)


def test_stages_inside_cannot_keep_less_than_the_layers_before_them(case, inputs):
    with attach(case.model, plugin_for(case, untrained(2))):
        with pytest.raises(UserError, match="visual_budget is 2. .*out of reach"):
            generated(case, inputs, visual_budget=2)


def test_tokens_say_nothing_where_their_number_varies(inputs):
    case = family("qwen2_5_vl")
    with attach(case.model, plugin_for(case, untrained(0))):
        with pytest.raises(UserError, match="visual_budget is 4. .*a share between 0 and 1"):
            generated(case, case.inputs(SAMPLES[:1]), visual_budget=4)


def test_a_replayed_plan_has_chosen_already(case, inputs):
    plugin = plugin_for(case, untrained(0))
    with attach(case.model, plugin):
        plan = plan_of(generated(case, inputs).past_key_values)
    with attach(case.model, plugin, plan=plan):
        with pytest.raises(UserError, match="visual_budget=0.5 has no meaning while a plan"):
            generated(case, inputs, visual_budget=0.5)


# -- the parts -------------------------------------------------------------------------------------


def test_schedules_are_repeated_row_by_row():
    one, two = Schedule((0,), (0.5,), 4), Schedule((0,), (0.25,), 4)
    assert by_row([one], 3) == [one, one, one]
    assert by_row([one, two], 4) == [one, one, two, two]
    with pytest.raises(UserError, match="visual_budget has 2 numbers, but a forward has 3 rows"):
        by_row([one, two], 3)


def test_a_budget_chosen_before_does_not_change_the_next(case):
    """At 0.79 the first stage keeps all, so that the shares no longer tell how they fall."""
    plugin = plugin_for(case, many_budgets(0, 3))
    assert plugin.at_budget(0.79).at_budget(0.3).schedule == plugin.at_budget(0.3).schedule
    assert plugin.at_budget(0.79).schedule_at(0.3) == plugin.schedule_at(0.3)
