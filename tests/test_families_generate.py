"""``generate`` as users call it, on every family: what is gone must decode as what is masked."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from rcp import UserError, attach, plan_of
from rcp.backbones import backbone_for
from tests.decoding import (
    REFERENCES,
    TOKEN_TYPES,
    TOLERANCE,
    assert_decodes_as_masked,
    dropped,
    error,
    family,
    generated,
    masked,
    plugin_for,
    steps_of,
)
from tests.families import FAMILIES, Sample, upstream
from tests.families.batches import batches_of
from tests.tiny import attention_spec, rcp_spec

RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
VARIED = ["llava-llama", "llava-mistral-window", "llava_next", "gemma3-window", "qwen3_vl"]
"""Full attention, windows, ragged counts, two masks, M-RoPE with deepstack."""

REMAINING = [
    pytest.param(name, marks=[] if name in VARIED else pytest.mark.slow) for name in FAMILIES
]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_decoding_equals_the_masked_model(name):
    assert_decodes_as_masked(name, REFERENCES["rcp"](), RAGGED)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [attention_spec, rcp_spec])
@pytest.mark.parametrize("layers", [(0, 3), (1, 3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_decoding_from_any_layer(name, spec, layers):
    assert_decodes_as_masked(name, spec(layers=layers), RAGGED)
    if videos := batches_of(family(name)).get("video"):
        assert_decodes_as_masked(name, spec(layers=layers), videos)


@pytest.mark.parametrize("name", REMAINING)
def test_each_row_of_a_ragged_batch_decodes_as_alone(name):
    case = family(name)
    plugin = plugin_for(case, rcp_spec(layers=(0, 3)))
    samples = [Sample(seed, images=seed % 3, question=2 + seed % 4) for seed in range(8)]
    together = dropped(case, plugin, case.inputs(samples)).sequences[:, -4:]
    for sample, row in zip(samples, together):
        alone = dropped(case, plugin, case.inputs([sample])).sequences[0, -4:]
        assert torch.equal(alone, row), sample


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=["sampling", "return-sequences", "beams", "returned-beams"],
)
@pytest.mark.parametrize("name", ["llava-llama", "gemma3-window", "qwen3_vl"])
def test_search_and_sampling_equal_the_masked_model(name, options):
    case = family(name)
    plugin = plugin_for(case, rcp_spec(layers=(0, 3)))
    inputs = case.inputs(RAGGED[:2])
    if "num_beams" in options and name in upstream.BEAMS:
        beams = [generated(case, inputs, use_cache=use, **options) for use in (True, False)]
        assert not torch.equal(beams[0].sequences, beams[1].sequences)
        pytest.skip("this release's beam search contradicts itself without a plug-in")
    if "num_beams" in options and name in upstream.SHUFFLED_BEAMS:
        alone, beams = (generated(case, inputs, 1, num_beams=n).logits[0][0] for n in (1, 2))
        assert error(beams, alone) > TOLERANCE
        pytest.skip("this release's beams see other images without a plug-in")
    torch.manual_seed(5)
    one = dropped(case, plugin, inputs, **options).sequences
    torch.manual_seed(5)
    assert torch.equal(one, masked(case, plugin, inputs, **options).sequences)


def draft_of(model: Any) -> Any:
    """A smaller model would be apt; this one is often, and not always, of the model's opinion."""
    draft = copy.deepcopy(model)
    for layer in backbone_for(draft).layers:
        for parameter in layer.parameters():
            parameter.data += 0.02 * parameter.std() * torch.randn_like(parameter)
    return draft


@pytest.mark.parametrize("helper", ["prompt-lookup", "draft-model"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["llava-llama", "gemma3-window", "qwen3_vl"])
def test_assisted_decoding_equals_greedy(name, first, helper):
    """Candidates are verified many at a time and taken back from caches of unequal length."""
    case = family(name)
    plugin = plugin_for(case, rcp_spec(layers=(first, 3)))
    inputs = case.inputs([Sample(3, question=9)])
    options = {"prompt_lookup_num_tokens": 3}
    if helper == "draft-model":
        options = {"assistant_model": draft_of(case.model)}
        if name in upstream.DRAFTS:
            with pytest.raises(RuntimeError):
                generated(case, inputs, steps=12, **options)
            pytest.skip("this release's draft models fail on windows without a plug-in")
    plain = dropped(case, plugin, inputs, steps=12).sequences
    assert torch.equal(plain, dropped(case, plugin, inputs, steps=12, **options).sequences)


def test_without_a_cache_the_prompt_must_be_named():
    case = family("llava-llama")
    plugin = plugin_for(case, rcp_spec())
    inputs = case.inputs(RAGGED)
    with pytest.raises(UserError, match="handle.prompt"):
        dropped(case, plugin, inputs, use_cache=False)
    with attach(case.model, plugin, "drop") as handle, handle.prompt(inputs["input_ids"].shape[1]):
        without = generated(case, inputs, use_cache=False).sequences
    assert torch.equal(without, dropped(case, plugin, inputs).sequences)


def test_embedded_prompts_decode_as_ids():
    case = family("llava-llama")
    plugin = plugin_for(case, rcp_spec())
    inputs = case.inputs(RAGGED)
    expected = dropped(case, plugin, inputs).sequences[:, -4:]
    embedded = {"inputs_embeds": case.model.get_input_embeddings()(inputs["input_ids"])}
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert torch.equal(dropped(case, plugin, embedded | rest).sequences, expected)
    with pytest.raises(UserError, match="inputs_embeds alone"), torch.no_grad():
        with attach(case.model, plugin, "drop"):
            case.model(**embedded)


def test_hidden_states_are_as_long_as_what_is_left():
    """Documented: under a plug-in each layer's hidden states have their own length."""
    case = family("llava-llama")
    plugin = plugin_for(case, rcp_spec(layers=(1, 3), ratios=(0.5, 0.25)))
    inputs = case.inputs([Sample(0)])
    output = dropped(case, plugin, inputs, output_hidden_states=True, output_scores=True)
    length = inputs["input_ids"].shape[1]
    left = [length] * 2 + [length - 8] * 2 + [length - 12] * 3
    assert [states.shape[1] for states in output.hidden_states[0]] == left
    assert len(output.scores) == 4
    assert [layer.keys.shape[2] for layer in output.past_key_values.layers] == [
        rows + 3 for rows in (length, *left[2:4], *left[4:7])
    ]


@pytest.mark.parametrize("use_cache", [True, False])
def test_loss_with_labels_equals_the_masked_model(use_cache):
    case = family("llava_next")
    plugin = plugin_for(case, rcp_spec())
    inputs = case.inputs(RAGGED)
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    losses = []
    for mode in ("soft", "drop"):
        with attach(case.model, plugin, mode), torch.no_grad():
            losses.append(case.model(**inputs, labels=labels, use_cache=use_cache).loss)
    assert error(*losses) < TOLERANCE


class _Streamer:
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        pass


def test_streaming():
    case = family("llava-llama")
    plugin = plugin_for(case, rcp_spec())
    streamer = _Streamer()
    output = dropped(case, plugin, case.inputs([Sample(0)]), streamer=streamer)
    assert streamer.tokens == output.sequences[0].tolist()


# -- several turns on one cache ------------------------------------------------------------------


Talk = tuple[Any, dict[str, Tensor]]
"""What ``generate`` returned for the second turn, and the model's inputs for both as one."""


def two_turns(case: Any, images: tuple[int, int]) -> Talk:
    """A turn with ``images[0]`` images, then one with ``images[1]`` more on the same cache."""
    one = case.inputs([Sample(4, images=images[0])])
    two = case.inputs([Sample(8, images=images[1])])
    turn = generated(case, one)
    length = one["input_ids"].shape[1]
    talk = {"input_ids": torch.cat([turn.sequences, two["input_ids"]], 1)}
    talk["attention_mask"] = torch.ones_like(talk["input_ids"])
    answered = torch.zeros_like(turn.sequences[:, length:])
    for key in TOKEN_TYPES:
        if key in one:
            talk[key] = torch.cat([one[key], answered.to(one[key]), two[key]], 1)
    pixels = {key: value for key, value in two.items() if "pixel" in key or "grid" in key}
    output = generated(case, talk | pixels, past_key_values=turn.past_key_values)
    shown = {
        key: torch.cat([part[key] for part in (one, two) if key in part])
        for key in {*one, *two} - {*talk}
    }
    return output, talk | shown


def is_upstream(name: str, images: tuple[int, int]) -> bool:
    """Whether the model gets this talk wrong by itself."""
    wrong = upstream.SECOND_IMAGE_LATER if images[0] else upstream.FIRST_IMAGE_LATER
    return images[1] > 0 and name in wrong


@pytest.mark.parametrize("images", [(1, 0), (0, 1), (1, 1)], ids=["text", "first-image", "image"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["llava-llama", "gemma3-window", "qwen2_5_vl"])
def test_a_second_turn_equals_the_masked_model(name, first, images):
    if is_upstream(name, images):
        pytest.skip("this release gets it wrong without a plug-in, as another test shows")
    case = family(name)
    plugin = plugin_for(case, attention_spec(layers=(first, 3)))
    with attach(case.model, plugin, "drop"):
        output, inputs = two_turns(case, images)
    plan = plan_of(output.past_key_values)
    with attach(case.model, plugin, "soft", plan=plan) as handle, torch.no_grad():
        with handle.prompt(inputs["input_ids"].shape[1]):
            expected = steps_of(case, inputs, output.sequences[:, -4:])
    assert error(torch.stack(output.logits), expected) < TOLERANCE


@pytest.mark.parametrize("images", [(0, 1), (1, 1)], ids=["first-image", "image"])
@pytest.mark.parametrize("name", ["gemma3-window", "qwen2_5_vl"])
def test_what_the_model_gets_wrong_by_itself_a_plugin_leaves_so(name, images):
    """A limit of the release: the same exception, or the same wrong logits, with a plug-in."""
    if not is_upstream(name, images):
        pytest.skip("this release gets it right")
    case = family(name)
    plugin = plugin_for(case, attention_spec(layers=(0, 3), ratios=(1.0, 1.0)))
    try:
        with torch.no_grad():
            plain, inputs = two_turns(case, images)
            expected = steps_of(case, inputs, plain.sequences[:, -4:])
        assert error(torch.stack(plain.logits), expected) > 100 * TOLERANCE
    except StopIteration:
        with attach(case.model, plugin, "drop"), pytest.raises(StopIteration):
            two_turns(case, images)
        return
    with attach(case.model, plugin, "drop"):
        output, _ = two_turns(case, images)
    assert error(torch.stack(output.logits), torch.stack(plain.logits)) < TOLERANCE


def test_generations_in_two_threads_do_not_disturb_each_other():
    case = family("llava-llama")
    plugin = plugin_for(case, rcp_spec(layers=(0, 3)))
    prompts = [case.inputs([sample]) for sample in RAGGED[:2]]
    with attach(case.model, plugin, "drop"):
        alone = [generated(case, inputs).sequences for inputs in prompts]
        found: dict[int, Tensor] = {}

        def run(number: int) -> None:
            found[number] = generated(case, prompts[number]).sequences

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(alone[number], found[number]) for number in range(2))


@pytest.mark.parametrize("name", ["llava-llama", "llava-mistral-window"])
@pytest.mark.parametrize("first", [0, 1])
@torch.no_grad()
def test_decoding_by_hand_with_copied_and_interleaved_caches(name, first):
    case = family(name)
    plugin = plugin_for(case, rcp_spec(layers=(first, 3)))
    prompts = [case.inputs([sample]) for sample in RAGGED[:2]]
    expected = [dropped(case, plugin, inputs) for inputs in prompts]
    with attach(case.model, plugin, "drop"):
        caches = [case.model(**inputs).past_key_values for inputs in prompts]
        for step in range(3):
            for number, output in enumerate(expected):
                token = output.sequences[:, step - 4][:, None]
                twin = copy.deepcopy(caches[number])
                for cache in (twin, caches[number]):
                    logits = case.model(input_ids=token, past_key_values=cache).logits[:, -1]
                    assert error(logits, output.logits[step + 1]) < TOLERANCE


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cache_implementation": "static"}, "cache 'static'"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size=8"),
    ],
)
def test_what_dropping_cannot_serve_is_refused_by_name(options, message):
    case = family("llava-llama")
    with pytest.raises(UserError, match=message):
        dropped(case, plugin_for(case, rcp_spec()), case.inputs([Sample(0)]), **options)
    assert "generate" not in case.model.__dict__


def test_a_window_under_flash_attention_is_refused():
    case = FAMILIES["llava-mistral-window"]()
    case.model.config.text_config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UserError, match="sliding window of layer 1"):
        attach(case.model, plugin_for(case, rcp_spec()), "drop")


def test_an_unknown_attention_backend_is_refused():
    case = FAMILIES["llava-llama"]()
    case.model.config.text_config._attn_implementation_internal = "flex_attention"
    with pytest.raises(UserError, match="flex_attention"):
        attach(case.model, plugin_for(case, rcp_spec()), "drop")
