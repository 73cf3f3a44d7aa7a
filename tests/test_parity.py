"""Masked training and physical dropping are two renderings of one plan (design invariants 1-3)."""

import copy

import pytest
import torch

import rcp
from tests.tiny import (
    IMAGE,
    REFERENCE_SPECS,
    reference_plugin,
    row_of,
    text_rows,
    tiny_inputs,
)

PARITY = 1e-5  # fp32, logits of order 1; dropping changes them by more than 0.1

BATCHES = {
    "left": dict(questions=(5, 7), images=(1, 1)),
    "right": dict(questions=(5, 7), images=(1, 1), side="right"),
    "several images": dict(questions=(4, 6, 5), images=(2, 1, 3)),
    "text only": dict(questions=(4, 30), images=(1, 0)),
}


@pytest.mark.parametrize("plugin_name", REFERENCE_SPECS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layers", [(0, 2), (1, 3), (4,)])
def test_soft_equals_drop(tiny_llava, plugin_name, batch, layers):
    inputs = tiny_inputs(**BATCHES[batch])
    changes = {"layers": layers, "ratios": (0.5, 0.2)[: len(layers)]}
    if plugin_name == "rcp":
        changes["repair"] = (4, 5)
    plugin = reference_plugin(plugin_name, tiny_llava, **changes)
    full = tiny_llava(**inputs).logits
    with rcp.attach(tiny_llava, plugin, "soft") as handle, handle.trace() as masked:
        soft = tiny_llava(**inputs).logits
    with rcp.attach(tiny_llava, plugin, "drop") as handle, handle.trace() as dropped:
        drop = tiny_llava(**inputs).logits
    rows = text_rows(inputs)
    assert (soft - drop)[rows].abs().max() < PARITY
    assert (full - drop)[rows].abs().max() > 0.1, "dropping must matter, or parity is vacuous"
    assert torch.equal(masked.plan.alive, dropped.plan.alive)
    counts = torch.tensor([[max(1, round(r * n)) if n else 0 for n in
                            (16 * i for i in BATCHES[batch]["images"])]
                           for r in changes["ratios"]])
    assert torch.equal(dropped.plan.kept, counts)


def test_a_threshold_plugin_keeps_ragged_counts_and_still_agrees(tiny_llava):
    inputs = tiny_inputs(questions=(5, 9, 6), images=(1, 2, 1))
    plugin = reference_plugin("rcp", tiny_llava, selection="threshold")
    with rcp.attach(tiny_llava, plugin, "soft") as handle, handle.trace() as masked:
        soft = tiny_llava(**inputs).logits
    with rcp.attach(tiny_llava, plugin, "drop") as handle, handle.trace() as dropped:
        drop = tiny_llava(**inputs).logits
    assert (soft - drop)[text_rows(inputs)].abs().max() < PARITY
    kept = dropped.plan.kept
    assert torch.equal(kept, masked.plan.kept)
    assert len(set(kept[-1].tolist())) > 1, "counts should differ between the rows"


@pytest.mark.parametrize("selection", ["top_k", "threshold"])
def test_a_margin_leaves_values_alone_and_gradients_of_near_tokens(tiny_llava, selection):
    """Tokens far below the cut weigh 1e-12: dropping them in training changes speed alone."""
    inputs = tiny_inputs(questions=(5, 9, 6), images=(1, 2, 0))
    plugin = reference_plugin("rcp", tiny_llava, selection=selection, ratios=(0.4, 0.2))
    logits, gradients, tokens = {}, {}, {}
    for margin in (None, 100.0, 1.5):
        relaxation = rcp.Relaxation(temperature=0.5, margin=margin)
        with rcp.attach(tiny_llava, plugin, "soft", relaxation=relaxation) as handle:
            with handle.trace() as trace:
                logits[margin] = tiny_llava(**inputs).logits[text_rows(inputs)]
        plugin.zero_grad()
        logits[margin].square().sum().backward()
        gradients[margin] = torch.cat([p.grad.flatten() for p in plugin.parameters()])
        tokens[margin] = trace.plan.alive
    for margin in (100.0, 1.5):
        assert (logits[margin] - logits[None]).abs().max() < PARITY
        assert torch.equal(tokens[margin], tokens[None])
    # everything within the margin: the same gradient; tokens beyond it: a similar one
    scale = gradients[None].abs().max()
    assert (gradients[100.0] - gradients[None]).abs().max() < 1e-4 * scale
    assert torch.cosine_similarity(gradients[1.5], gradients[None], dim=0) > 0.9


@pytest.mark.parametrize("plugin_name", REFERENCE_SPECS)
def test_keep_all_is_the_model_itself(tiny_llava, plugin_name, inputs):
    changes = {"repair": ()} if plugin_name == "rcp" else {}
    plugin = reference_plugin(plugin_name, tiny_llava, ratios=(1.0, 1.0), **changes)
    full = tiny_llava(**inputs).logits
    for mode in ("drop", "record"):
        with rcp.attach(tiny_llava, plugin, mode):
            assert torch.equal(tiny_llava(**inputs).logits, full), mode
    with rcp.attach(tiny_llava, plugin, "soft"):
        assert (tiny_llava(**inputs).logits - full)[text_rows(inputs)].abs().max() <= 1e-6


def test_a_fresh_repair_adapter_is_an_exact_identity(tiny_llava, inputs):
    from tests.tiny import rcp_spec

    fresh = rcp.Plugin.for_model(rcp_spec(ratios=(1.0, 1.0)), tiny_llava).eval()
    full = tiny_llava(**inputs).logits
    with rcp.attach(tiny_llava, fresh, "drop"):
        assert torch.equal(tiny_llava(**inputs).logits, full)


def hook_count(model):
    kinds = [f"_forward_{kind}" for kind in ("hooks", "pre_hooks", "hooks_with_kwargs",
                                             "pre_hooks_with_kwargs", "hooks_always_called")]
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("mode", ["drop", "soft", "record"])
@pytest.mark.parametrize("fail", [False, True])
def test_detaching_leaves_nothing_behind(tiny_llava, mode, fail, inputs):
    plugin = reference_plugin("rcp", tiny_llava)
    full = tiny_llava(**inputs).logits
    attributes = {id(m): set(vars(m)) for m in tiny_llava.modules()}
    hooks = hook_count(tiny_llava)
    try:
        with rcp.attach(tiny_llava, plugin, mode):
            tiny_llava(**inputs)
            if fail:
                tiny_llava(**inputs | {"pixel_values": inputs["pixel_values"][:1]})
    except ValueError:
        assert fail
    assert hook_count(tiny_llava) == hooks
    assert {id(m): set(vars(m)) for m in tiny_llava.modules()} == attributes
    assert torch.equal(tiny_llava(**inputs).logits, full)


def test_a_second_attachment_is_refused_and_remove_is_repeatable(tiny_llava, inputs):
    plugin = reference_plugin("rcp", tiny_llava)
    handle = rcp.attach(tiny_llava, plugin)
    with pytest.raises(rcp.UserError, match="already has a plug-in"):
        rcp.attach(tiny_llava, plugin)
    handle.remove()
    handle.remove()
    rcp.attach(tiny_llava, plugin).remove()


def greedy_without_cache(model, plugin, inputs, steps):
    """The reference: the masked model, whole sequence every step."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with rcp.attach(model, plugin, "soft") as handle, handle.prompt(ids.shape[1]):
        for _ in range(steps):
            batch = inputs | {"input_ids": ids, "attention_mask": mask}
            logits = model(**batch, use_cache=False).logits[:, -1]
            logits[:, IMAGE] = -torch.inf
            token = logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], dim=1)
            mask = torch.cat([mask, torch.ones_like(token)], dim=1)
    return ids


@pytest.mark.parametrize("plugin_name", REFERENCE_SPECS)
@pytest.mark.parametrize("layers", [(0, 2), (1, 3)])
def test_generate_equals_the_masked_model_without_cache(tiny_llava, plugin_name, layers):
    inputs = tiny_inputs(questions=(3, 9, 5, 7), images=(1, 2, 1, 0))
    plugin = reference_plugin(plugin_name, tiny_llava, layers=layers)
    expected = greedy_without_cache(tiny_llava, plugin, inputs, 6)
    with rcp.attach(tiny_llava, plugin, "drop"):
        tokens = tiny_llava.generate(
            **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE]
        )
    assert torch.equal(tokens, expected)


def test_a_batch_gives_what_its_rows_give_alone(tiny_llava):
    images = (1, 2, 0, 1)
    inputs = tiny_inputs(questions=(3, 9, 5, 7), images=images)
    plugin = reference_plugin("rcp", tiny_llava)
    settings = dict(max_new_tokens=5, min_new_tokens=5, do_sample=False, suppress_tokens=[IMAGE])
    with rcp.attach(tiny_llava, plugin, "drop"):
        together = tiny_llava.generate(**inputs, **settings)[:, -5:]
        for row in range(len(images)):
            alone = tiny_llava.generate(**row_of(inputs, row, images), **settings)[:, -5:]
            assert torch.equal(together[row:row + 1], alone)


def step(model, token, cache):
    return model(input_ids=token, past_key_values=cache).logits[:, -1]


@torch.no_grad()
def test_interleaved_and_copied_generations_do_not_disturb_each_other(tiny_llava):
    plugin = reference_plugin("rcp", tiny_llava, layers=(0, 3))
    prompts = [tiny_inputs((5,), (1,)), tiny_inputs((9,), (2,))]
    token = torch.tensor([[42]])
    with rcp.attach(tiny_llava, plugin, "drop"):
        apart = []
        for prompt in prompts:
            cache = tiny_llava(**prompt).past_key_values
            apart.append([step(tiny_llava, token, cache) for _ in range(3)])
        caches = [tiny_llava(**prompt).past_key_values for prompt in prompts]
        copied = copy.deepcopy(caches[0])
        together = [[], []]
        for _ in range(3):
            for which in (0, 1):
                together[which].append(step(tiny_llava, token, caches[which]))
        again = [step(tiny_llava, token, copied) for _ in range(3)]
    for which in (0, 1):
        assert torch.equal(torch.stack(apart[which]), torch.stack(together[which]))
    assert torch.equal(torch.stack(again), torch.stack(apart[0]))


def test_a_foreign_cache_is_refused(tiny_llava, inputs):
    plugin = reference_plugin("rcp", tiny_llava)
    cache = tiny_llava(**inputs).past_key_values
    with rcp.attach(tiny_llava, plugin, "drop"):
        with pytest.raises(rcp.UserError, match="not run under this plug-in"):
            step(tiny_llava, torch.tensor([[4], [4]]), cache)


def test_without_cache_the_prompt_must_be_told(tiny_llava, inputs):
    plugin = reference_plugin("rcp", tiny_llava)
    with rcp.attach(tiny_llava, plugin, "drop") as handle:
        with pytest.raises(rcp.UserError, match="where the prompt ends"):
            tiny_llava(**inputs, use_cache=False)
        with handle.prompt(inputs["input_ids"].shape[1]):
            told = tiny_llava(**inputs, use_cache=False).logits
        assert torch.equal(told, tiny_llava(**inputs).logits)


def test_labels_give_the_loss_of_the_masked_model(tiny_llava):
    inputs = tiny_inputs(side="right")
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    labels[inputs["attention_mask"] == 0] = -100
    plugin = reference_plugin("rcp", tiny_llava)
    losses = {}
    for mode in ("soft", "drop"):
        with rcp.attach(tiny_llava, plugin, mode):
            losses[mode] = tiny_llava(**inputs, labels=labels, use_cache=False).loss
    assert abs(losses["soft"] - losses["drop"]) < PARITY


@pytest.mark.parametrize("mode", ["soft", "drop"])
def test_a_plan_replays_in_either_mode(tiny_llava, inputs, tmp_path, mode):
    plugin = reference_plugin("rcp", tiny_llava)
    with rcp.attach(tiny_llava, plugin, "drop") as handle, handle.trace() as trace:
        expected = tiny_llava(**inputs).logits
    trace.plan.save(tmp_path / "plan.safetensors")
    plan = rcp.KeepPlan.load(tmp_path / "plan.safetensors")
    other = reference_plugin("rcp", tiny_llava)
    for pruner in other.pruners.values():  # a pruner that would choose otherwise
        for parameter in pruner.parameters():
            parameter.data.neg_()
    with rcp.attach(tiny_llava, other, mode, plan=plan) as handle, handle.trace() as replayed:
        logits = tiny_llava(**inputs).logits
    assert torch.equal(replayed.plan.alive, plan.alive)
    assert (logits - expected)[text_rows(inputs)].abs().max() < PARITY


def test_the_cache_holds_the_plan_and_the_original_length(tiny_llava, inputs):
    plugin = reference_plugin("rcp", tiny_llava, layers=(0, 3))
    with rcp.attach(tiny_llava, plugin, "drop"):
        cache = tiny_llava(**inputs).past_key_values
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]
    assert rcp.plan_of(cache).kept.tolist() == [[8, 8], [3, 3]]
    assert cache.layers[1].keys.shape[-2] < inputs["input_ids"].shape[1]
