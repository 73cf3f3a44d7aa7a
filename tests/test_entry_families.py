"""Families that lose tokens before their decoder alone: it is given a shorter prompt, and answers
what it answers to one."""

import copy

import pytest
import torch
from torch import Tensor

import rcp
from rcp import Plugin, PluginSpec, RepairSpec, StageSpec, UserError, attach
from rcp.attaching.forwards.repacking import closed
from rcp.backbones import backbone_for
from rcp.backbones.base import BACKBONES
from tests.decoding import TOKEN_TYPES, dropped, error, family, generated, plugin_for, prompt_ends
from tests.families import ENTRY_FAMILIES, Case, Sample, upstream
from tests.families.batches import BATCHES, batches_of

TOLERANCE = 1e-5
EFFECT = 1e-2
ENTRY = PluginSpec([StageSpec(0, 0.4, "divprune")])
REPACKED = PluginSpec([StageSpec(0, 0.4, "divprune")], position_policy="repack")
REPAIRED = PluginSpec([StageSpec(0, 0.4, "divprune")], RepairSpec([2, 4]))
MASK = "attention_mask"
BY_ROW = ("inputs_embeds", "per_layer_inputs")
OF_ALL = pytest.mark.parametrize("name", ENTRY_FAMILIES)


def extended(inputs: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """``inputs`` with ``tokens`` (B, S) of text behind them."""
    added = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    added |= {name: torch.zeros_like(tokens) for name in TOKEN_TYPES if name in inputs}
    return inputs | {name: torch.cat([inputs[name], new], 1) for name, new in added.items()}


def decoder_inputs(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the decoder is given by the model without a plug-in."""
    seen: list[dict] = []
    decoder = backbone_for(case.model).decoder
    hook = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    case.model(**inputs, use_cache=False)
    hook.remove()
    (found,) = seen
    return found


@torch.no_grad()
def on_rows(
    case: Case, inputs: dict[str, Tensor], kept: Tensor, repack: bool = False
) -> Tensor:
    """Logits (K, V) of the decoder alone on the columns ``kept`` (T,) bool of one sample, which
    stand at their own positions, or with gaps closed."""
    given, rows = decoder_inputs(case, inputs), kept.nonzero()[:, 0]
    positions = given.get("position_ids")
    if positions is None:
        positions = torch.arange(len(kept))[None]
    if repack:
        axes = positions if positions.dim() == 3 else positions[None]
        axes, _ = closed(axes, torch.ones_like(kept)[None], kept[None])
        positions = axes if positions.dim() == 3 else axes[0]
    positions = positions[..., rows]
    by_row = {name: given[name][:, rows] for name in BY_ROW if given.get(name) is not None}
    hidden = backbone_for(case.model).decoder(
        **by_row,
        position_ids=positions,
        attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        use_cache=False,
    ).last_hidden_state
    logits = case.model.get_output_embeddings()(hidden)[0]
    cap = getattr(case.model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def expected(
    case: Case, samples: tuple[Sample, ...], plan: rcp.KeepPlan, tokens: Tensor
) -> Tensor:
    """Logits (S, B, V) of each sample alone, which led to the ``tokens`` (B, S) one by one."""
    rows = []
    for row, sample in enumerate(samples):
        alone = case.inputs((sample,))
        mask, alive = case.inputs(samples)["attention_mask"][row].bool(), plan.alive[0, row]
        kept = torch.cat([alive[mask], torch.ones(tokens.shape[1], dtype=torch.bool)])
        logits = on_rows(case, extended(alone, tokens[row : row + 1]), kept)
        rows.append(logits[-tokens.shape[1] - 1 : -1])
    return torch.stack(rows, 1)


@OF_ALL
def test_what_it_answers_is_what_the_decoder_makes_of_the_rows_left(name):
    """In the prompt and in decoding, of a padded batch that loses different numbers."""
    case = family(name)
    plugin = plugin_for(case, ENTRY)
    for samples in batches_of(case).values():
        inputs = case.inputs(samples)
        with attach(case.model, plugin):
            output = generated(case, inputs)
        plan = rcp.plan_of(output.past_key_values)
        tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
        found = torch.stack(output.logits)
        assert error(found, expected(case, samples, plan, tokens)) < TOLERANCE
        untouched = torch.stack(generated(case, inputs).logits)
        assert error(found[0], untouched[0]) > EFFECT


@pytest.mark.parametrize("padding", ["left", "right"])
@OF_ALL
def test_a_forward_without_a_cache_keeps_the_columns_of_the_prompt(name, padding):
    case = family(name)
    samples = BATCHES["ragged"]
    inputs = case.inputs(samples, padding)
    with attach(case.model, plugin_for(case, ENTRY)) as handle, torch.no_grad():
        with handle.prompt(prompt_ends(inputs)), handle.trace() as trace:
            found = case.model(**inputs, use_cache=False).logits
    for row, sample in enumerate(samples):
        alive, mask = trace.plan.alive[0, row], inputs["attention_mask"][row].bool()
        assert alive[mask].sum() < mask.sum() or not sample.images
        logits = on_rows(case, case.inputs((sample,)), alive[mask])
        assert error(found[row, alive], logits) < TOLERANCE


@OF_ALL
def test_a_second_turn_goes_on_behind_the_first(name):
    """Three tokens at once on a copy of the filled cache, then on the cache itself."""
    case = family(name)
    samples = BATCHES["ragged"]
    inputs = case.inputs(samples)
    words = torch.tensor([[17, 23, 31]] * len(samples))
    more = extended(inputs, words)
    positions = {}
    if (given := decoder_inputs(case, more).get("position_ids")) is not None:
        positions = {"position_ids": given[..., -3:]}
    with attach(case.model, plugin_for(case, ENTRY)), torch.no_grad():
        cache = case.model(**inputs, use_cache=True).past_key_values
        plan, twin = rcp.plan_of(cache), copy.deepcopy(cache)
        assert cache.get_seq_length() == inputs["input_ids"].shape[1]
        turn = {"input_ids": words, "attention_mask": more["attention_mask"]} | positions
        found = [case.model(**turn, past_key_values=one).logits for one in (twin, cache)]
    tokens = torch.cat([words, words[:, :1]], 1)  # the last one follows on them, and is not given
    wanted = expected(case, samples, plan, tokens)[1:].transpose(0, 1)
    assert max(error(one, wanted) for one in found) < TOLERANCE


@OF_ALL
def test_beams_take_their_states_with_them(name):
    case = family(name)
    plugin, samples = plugin_for(case, ENTRY), (Sample(3, images=2),)
    inputs = case.inputs(samples)
    two = {"num_beams": 2, "num_return_sequences": 2, "output_scores": True}
    if name in upstream.IMAGES_OF_BEAMS:
        with pytest.raises(ValueError, match="Image features and image tokens do not match"):
            generated(case, inputs, **two)
        return
    output = dropped(case, plugin, inputs, steps=3, **two)
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    with attach(case.model, plugin), torch.no_grad():
        plan = rcp.plan_of(case.model(**inputs, use_cache=True).past_key_values)
    each = [expected(case, samples, plan, one[None])[:, 0] for one in tokens]
    logits = torch.stack(each).log_softmax(-1)
    wanted = logits.gather(-1, tokens[..., None])[..., 0].sum(1) / tokens.shape[1]
    assert error(output.sequences_scores, wanted) < TOLERANCE


@OF_ALL
def test_gaps_are_closed_where_that_is_the_policy(name):
    case, samples = family(name), (Sample(3, images=2),)
    inputs = case.inputs(samples)
    with attach(case.model, plugin_for(case, REPACKED)):
        output = generated(case, inputs)
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    alive = rcp.plan_of(output.past_key_values).alive[0, 0]
    kept = torch.cat([alive, torch.ones(tokens.shape[1], dtype=torch.bool)])
    wanted = on_rows(case, extended(inputs, tokens), kept, repack=True)[-tokens.shape[1] - 1 : -1]
    assert error(torch.stack(output.logits)[:, 0], wanted) < TOLERANCE


@OF_ALL
def test_a_static_cache_answers_like_a_growing_one(name):
    case = family(name)
    plugin, inputs = plugin_for(case, ENTRY), case.inputs(BATCHES["ragged"])
    growing = dropped(case, plugin, inputs)
    fixed = dropped(case, plugin, inputs, cache_implementation="static")
    assert error(torch.stack(fixed.logits), torch.stack(growing.logits)) < TOLERANCE


@OF_ALL
def test_drafts_are_taken_back_where_the_model_can(name):
    case = family(name)
    plugin, inputs = plugin_for(case, ENTRY), case.inputs((Sample(3, images=2),))
    look_up = {"prompt_lookup_num_tokens": 2}
    if case.model._is_stateful:
        with pytest.raises(ValueError, match="not supported with stateful models"):
            dropped(case, plugin, inputs, **look_up)
        return
    plain = dropped(case, plugin, inputs, steps=8).sequences
    assert torch.equal(dropped(case, plugin, inputs, steps=8, **look_up).sequences, plain)


@OF_ALL
def test_repair_acts_in_decoding_as_without_a_cache(name):
    case = family(name)
    if not backbone_for(case.model).repairable:
        refused(case, REPAIRED, "drop", r"repair at layers \[2, 4\].*without repair")
        return
    plugin, samples = plugin_for(case, REPAIRED), BATCHES["ragged"]
    inputs = case.inputs(samples)
    output = dropped(case, plugin, inputs)
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    more = extended(inputs, tokens)
    with attach(case.model, plugin) as handle, torch.no_grad():
        with handle.prompt(inputs["input_ids"].shape[1]):
            found = case.model(**more, use_cache=False).logits[:, -5:-1].transpose(0, 1)
    assert error(torch.stack(output.logits), found) < TOLERANCE
    plain = torch.stack(dropped(case, plugin_for(case, ENTRY), inputs).logits)
    assert error(found[0], plain[0]) > 1e-3


@OF_ALL
def test_a_recorded_plan_is_replayed(name):
    case = family(name)
    inputs = case.inputs(BATCHES["ragged"])
    with attach(case.model, plugin_for(case, ENTRY)):
        output = generated(case, inputs)
    plan = rcp.plan_of(output.past_key_values)
    other = plugin_for(case, PluginSpec([StageSpec(0, 0.4, "question_attention")]))
    with attach(case.model, other, plan=plan):  # its own choice, which it could not make here
        again = generated(case, inputs)
    assert torch.equal(torch.stack(again.logits), torch.stack(output.logits))


@OF_ALL
def test_keeping_everything_is_bit_equal(name):
    case = family(name)
    plugin = plugin_for(case, PluginSpec([StageSpec(0, 1.0, "divprune")]))
    inputs = case.inputs(BATCHES["ragged"])
    with attach(case.model, plugin):
        found = torch.stack(generated(case, inputs).logits)
    alone = torch.stack(generated(case, inputs).logits)
    if name == "gemma4_shared":  # it computes all rows then, in products of another size
        assert error(found, alone) < TOLERANCE
    else:
        assert torch.equal(found, alone)


def refused(case: Case, spec: PluginSpec, mode: str, match: str) -> None:
    backbone = backbone_for(case.model)
    plugin = Plugin(spec, backbone.hidden_size, len(backbone.layers))
    with pytest.raises(UserError, match=match) as e:
        attach(case.model, plugin, mode)
    assert type(case.model).__name__ in str(e.value)


@OF_ALL
def test_what_works_inside_is_refused_by_name(name):
    case = family(name)
    with attach(case.model, plugin_for(case, ENTRY), "record") as handle:
        for asked in ({"attention": [2]}, {"biases": range(6)}, {"views": [0, 2]}):
            with pytest.raises(UserError, match="layer [02] attends to is not recorded"):
                with handle.trace(**asked):
                    pass
    oracle = PluginSpec([StageSpec(0, 0.4, "oracle")])
    refused(case, oracle, "drop", "'oracle' needs 'full_attention'.*python -m rcp pruners")
    inside = PluginSpec([StageSpec(at, 0.5 / (at + 1), "divprune") for at in (0, 2)])
    refused(case, inside, "drop", "at layer 2.*one stage, at layer 0")
    with pytest.raises(UserError, match="at layer 2.*one stage, at layer 0"):
        Plugin.for_model(inside, case.model)


@OF_ALL
def test_attention_of_layer_0_is_refused_where_there_is_none(name):
    case = family(name)
    for method in ("question_attention", "visiondrop_decoder"):
        spec = PluginSpec([StageSpec(0, 0.4, method)])
        if backbone_for(case.model).attends(0):
            plugin = plugin_for(case, spec)
            generated_by = dropped(case, plugin, case.inputs(BATCHES["ragged"]))
            assert torch.stack(generated_by.logits).isfinite().all()
        else:
            refused(case, spec, "drop", f"'{method}' needs '.*attention', which layer 0 of")


@OF_ALL
def test_queries_and_keys_are_those_of_eager_attention(name):
    """Of the layers that have an attention: gates beside queries, layers without positions."""
    case = ENTRY_FAMILIES[name]()
    model, backbone = case.model, backbone_for(case.model)
    model.set_attn_implementation("eager")
    inputs = case.inputs((Sample(3),))
    seen: dict[int, Tensor] = {}
    attending = [at for at in range(len(backbone.layers)) if backbone.attends(at)]
    for at in attending:
        backbone.layers[at].self_attn.register_forward_pre_hook(
            lambda _, args, kwargs, at=at: seen.update({at: kwargs["hidden_states"]}),
            with_kwargs=True,
        )
    with torch.no_grad():
        positions = decoder_inputs(case, inputs).get("position_ids")
        if positions is None:
            positions = torch.arange(inputs["input_ids"].shape[1])[None]
        attentions = model(**inputs, output_attentions=True, use_cache=False).attentions
        for at, given in zip(attending, attentions if attending else (), strict=True):
            hidden = seen[at]
            rope = backbone.rope(hidden, positions[-3:] if positions.dim() == 3 else positions)
            query, key = backbone.qk(at, hidden, hidden, rope, rope)
            scores = backbone.attention_logits(at, query, key)
            scores = scores.masked_fill(given == 0, -torch.inf)  # causal, or of another chunk
            assert (scores.softmax(-1) - given).abs().max() < 1e-6, f"layer {at}"


@pytest.mark.parametrize("name", ["lfm2_vl", "llama4"])
def test_a_later_turn_with_an_image_goes_on_alone(name):
    """One by one it is what the decoder makes of all rows left; in a batch what fills the gaps
    would enter the state, and is refused."""
    case = family(name)
    plugin = plugin_for(case, ENTRY)
    first, second = case.inputs((Sample(3),)), case.inputs((Sample(4, question=3),))
    both = {
        key: torch.cat([first[key], second[key]], 1 if key in ("input_ids", MASK) else 0)
        for key in first
    }
    with attach(case.model, plugin), torch.no_grad():
        cache = case.model(**first, use_cache=True).past_key_values
        turn = second | {MASK: both[MASK], "past_key_values": cache}
        found = case.model(**turn).logits[0, -1]
        alive = rcp.plan_of(cache).alive[0, 0]
    assert alive.shape == both["input_ids"].shape[1:] and not alive.all()
    assert error(found, on_rows(case, both, alive)[-1]) < TOLERANCE
    ragged = case.inputs((Sample(3), Sample(4, images=0)))
    with attach(case.model, plugin), torch.no_grad():
        cache = case.model(**ragged, use_cache=True).past_key_values
        mask = torch.cat([ragged[MASK]] * 2, 1)
        with pytest.raises(UserError, match="padding on a filled cache.*each of them by itself"):
            case.model(**ragged | {MASK: mask, "past_key_values": cache})


@pytest.mark.parametrize("name", ["llama4"])
def test_a_chunk_counts_the_rows_that_are_left(name):
    """The second image begins a chunk of its own, or shares one with the question: where fewer
    rows are kept, the first layer's keys reach further back."""
    case = family(name)
    inputs = case.inputs((Sample(3, images=2),))
    size = case.model.config.text_config.attention_chunk_size
    seen = []
    layer = backbone_for(case.model).layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with attach(case.model, plugin_for(case, ENTRY)), torch.no_grad():
        cache = case.model(**inputs, use_cache=True).past_key_values
        alive = rcp.plan_of(cache).alive[0, 0]
        mask = torch.ones(1, len(alive) + 1).long()
        case.model(input_ids=torch.tensor([[17]]), attention_mask=mask, past_key_values=cache)
    hook.remove()
    rows = torch.arange(int(alive.sum()))
    allowed = (rows[:, None] >= rows) & (rows[:, None] // size == rows // size)
    assert torch.equal(seen[0][0, 0].bool(), allowed)
    kept = len(rows)  # the new token stands behind these, and sees what its chunk has of them
    assert seen[1][0, 0, 0].sum() == kept % size + 1


@OF_ALL
def test_flash_attention_is_refused(name, monkeypatch):
    case = family(name)
    monkeypatch.setattr(type(backbone_for(case.model)), "attention", "flash_attention_2")
    refused(case, ENTRY, "drop", "'flash_attention_2'.*attn_implementation=\"sdpa\"")


def test_the_reason_is_of_these_families_alone():
    names = {family(name).model.config.model_type for name in ENTRY_FAMILIES}
    names -= {"gemma4"}  # of which sizes differ
    assert names == {name for name in BACKBONES.names() if BACKBONES.get(name).only_before}
