"""What an attached plug-in remembers, replays and lets see, by value, through ``rcp.attach``."""

import pytest
import torch
from torch import Tensor

import rcp
from rcp.attaching.forwards.entry import by_slot
from rcp.attaching.masks import (
    additive,
    causal,
    forbid_keys,
    gather_mask,
    key_bias,
    render,
    with_key_bias,
)
from rcp.choosing.tokens import build_token_map
from tests.decoding import error, family, plugin_for, prompt_ends
from tests.families import Sample
from tests.tiny import rcp_spec

TOLERANCE = 1e-5  # fp32, relative; what is dropped moves logits by more than 0.1


@pytest.fixture
def case():
    return family("llava-llama")


class Noted:
    """What the stages of ``plugin`` saw and kept, and what its repair was told, in order."""

    def __init__(self, plugin: rcp.Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dropped: list[Tensor] = []  # a stage: (B, D) sum of the rows it dropped
        self.droppings: list = []
        self.contexts: list[Tensor] = []
        self.given: list[tuple[int, Tensor]] = []
        for layer in plugin.schedule.layers:
            self._watch(plugin.pruner(layer), monkeypatch)
        remember, repair = plugin.repair.remember, plugin.repair.forward

        def remembering(dropping):
            self.droppings.append(dropping)
            self.contexts.append(remember(dropping))
            return self.contexts[-1]

        def repairing(layer, hidden, context):
            self.given.append((layer, context))
            return repair(layer, hidden, context)

        monkeypatch.setattr(plugin.repair, "remember", remembering)
        monkeypatch.setattr(plugin.repair, "forward", repairing)

    def _watch(self, pruner, monkeypatch) -> None:
        select = pruner.select

        def selecting(view, counts):
            keep = select(view, counts)
            gone = view.alive & ~keep
            rows = [visual[dropped].sum(0) for visual, dropped in zip(view.visual, gone)]
            self.dropped.append(torch.stack(rows))
            return keep

        monkeypatch.setattr(pruner, "select", selecting)


@torch.no_grad()
def test_contexts_sum_up_over_stages_and_each_repair_takes_the_last_one(case, monkeypatch):
    plugin = plugin_for(case, rcp_spec((0, 2, 3), (0.75, 0.5, 0.2), (1, 2, 3)))
    inputs = case.inputs((Sample(3), Sample(4, images=2, question=3)))
    noted = Noted(plugin, monkeypatch)
    with rcp.attach(case.model, plugin) as handle, handle.trace() as trace:
        case.model(**inputs)
    kept = trace.plan.kept.tolist()
    total = trace.plan.visual.sum(1).tolist()
    assert len(noted.droppings) == len(noted.dropped) == 3
    for stage, dropping in enumerate(noted.droppings):
        summed = sum(noted.dropped[: stage + 1])
        torch.testing.assert_close(dropping.sums, summed, rtol=1e-4, atol=1e-4)
        gone = [n - k for n, k in zip(total, kept[stage])]
        assert dropping.pruned_count.tolist() == gone
        assert dropping.alive.sum(1).tolist() == kept[stage]
        assert dropping.exists.sum(1).tolist() == total
    assert [layer for layer, _ in noted.given] == [1, 2, 3]
    for (_, context), stage in zip(noted.given, (0, 1, 2)):
        assert torch.equal(context, noted.contexts[stage])


@torch.no_grad()
def test_training_remembers_what_inference_does(case, monkeypatch):
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), (2, 3)))
    inputs = case.inputs((Sample(3), Sample(4, images=0), Sample(5, images=2)))
    told = {}
    for mode in ("drop", "soft"):
        with pytest.MonkeyPatch.context() as patch:
            noted = Noted(plugin, patch)
            with rcp.attach(case.model, plugin, mode) as handle:
                with handle.prompt(prompt_ends(inputs)):
                    case.model(**inputs)
        told[mode] = noted.droppings
    for one, other in zip(told["drop"], told["soft"], strict=True):
        for name in ("alive", "exists", "pruned_count"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-4, atol=1e-4)


def test_facts_of_images_are_put_at_their_slots_and_shared_by_beams():
    """Two images for the first sample, one for the second; each sample is there twice."""
    image = torch.tensor([[1, 0, 1, 1]] * 2 + [[0, 1, 0, 0]] * 2).bool()
    tokens = build_token_map(image, torch.ones_like(image))
    keys = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]])
    first, second = keys[:3].tolist(), [[7.0, 8.0], [0.0, 0.0], [0.0, 0.0]]
    assert by_slot(keys, tokens).tolist() == [first, first, second, second]
    assert by_slot(keys[:, :1], tokens).tolist() == [[1, 3, 5]] * 2 + [[7, 0, 0]] * 2
    with pytest.raises(rcp.UserError, match="about 3 visual tokens, but the prompt has 8"):
        by_slot(keys[:3], tokens)


@pytest.mark.parametrize("name", ["llava-llama", "gemma3", "gemma3-window"])
@torch.no_grad()
def test_a_second_turn_with_images_is_the_same_in_a_batch(name: str):
    """Images that see themselves both ways, too."""
    case = family(name)
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), (2, 3)))
    first, second = [Sample(3), Sample(6)], [Sample(6, question=5), Sample(9, question=5)]

    def turns(rows: list[int]) -> Tensor:
        inputs = case.inputs([first[row] for row in rows])
        cache = case.model(**inputs).past_key_values
        more = case.inputs([second[row] for row in rows])
        more["attention_mask"] = torch.cat([inputs["attention_mask"], more["attention_mask"]], 1)
        assert more["attention_mask"].all()
        return case.model(**more, past_key_values=cache).logits[:, -1]

    with rcp.attach(case.model, plugin):
        together = turns([0, 1])
        for row in (0, 1):
            assert error(together[row], turns([row])[0]) < TOLERANCE


@torch.no_grad()
def test_of_a_batch_some_show_a_new_image_in_their_second_turn_and_some_do_not(case):
    """Each as it would go on alone: with its new image's context, or with its old one's."""
    first = [Sample(3), Sample(6)]  # equally long
    second = [Sample(4, question=6), Sample(7, images=0)]
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), (2, 3)))
    words = case.inputs([second[0]])["input_ids"].shape[1]
    second[1] = Sample(7, images=0, question=words - 4)  # 1 + 2 + 7 % 3 words before

    def turns(rows: list[int]) -> Tensor:
        inputs = case.inputs([first[row] for row in rows])
        cache = case.model(**inputs).past_key_values
        more = case.inputs([second[row] for row in rows])
        assert more["attention_mask"].all()
        more["attention_mask"] = torch.cat([inputs["attention_mask"], more["attention_mask"]], 1)
        logits = [case.model(**more, past_key_values=cache).logits[:, -1]]
        mask = torch.cat([more["attention_mask"], torch.ones(len(rows), 1).long()], 1)
        token = torch.full((len(rows), 1), 20)
        step = case.model(input_ids=token, attention_mask=mask, past_key_values=cache)
        return torch.stack([*logits, step.logits[:, -1]])

    with rcp.attach(case.model, plugin):
        together = turns([0, 1])
        for row in (0, 1):
            assert error(together[:, row], turns([row])[:, 0]) < TOLERANCE


@torch.no_grad()
def test_a_trace_is_of_the_last_forward(case):
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), ()))
    with rcp.attach(case.model, plugin) as handle, handle.trace() as trace:
        for sample in (Sample(3, images=2), Sample(4)):
            case.model(**case.inputs([sample]))
    assert len(trace.kept) == 2 and trace.kept[0].shape == trace.visual_valid.shape


# -- replay --------------------------------------------------------------------------------------


def planned(case, plugin, inputs) -> rcp.KeepPlan:
    with torch.no_grad(), rcp.attach(case.model, plugin) as handle, handle.trace() as trace:
        case.model(**inputs)
    return trace.plan


@torch.no_grad()
def test_a_plan_replays_on_a_longer_text_and_on_no_further_image(case):
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), (2, 3)))
    inputs = case.inputs([Sample(3)])
    plan, columns = planned(case, plugin, inputs), inputs["input_ids"].shape[1]
    answer = torch.tensor([[20, 21, 22]])
    longer = dict(inputs)
    longer["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    results = []
    for replayed in (None, plan):
        for mode in ("soft", "drop"):
            with rcp.attach(case.model, plugin, mode, plan=replayed) as handle:
                with handle.prompt(columns), handle.trace() as trace:
                    results.append(case.model(**longer).logits[:, columns - 1:])
            assert torch.equal(trace.plan.alive[..., :columns], plan.alive)
            assert trace.plan.alive[..., columns:].all()
    for result in results[1:]:
        assert error(result, results[0]) < TOLERANCE
    with rcp.attach(case.model, plugin, plan=plan), pytest.raises(rcp.UserError, match="columns"):
        case.model(**case.inputs([Sample(3, images=2)]))


@torch.no_grad()
def test_a_replayed_plan_is_followed_against_the_pruners_own_will(case):
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), ()))
    inputs = case.inputs([Sample(3)])
    plan = planned(case, plugin, inputs)
    turned = plan.alive ^ plan.visual  # what it dropped is kept, what it kept is dropped
    turned[1] = turned[0]  # and stays gone
    other = rcp.KeepPlan(**{**vars(plan), "alive": turned})
    for mode in ("soft", "drop"):
        with rcp.attach(case.model, plugin, mode, plan=other) as handle:
            with handle.prompt(inputs["input_ids"].shape[1]), handle.trace() as trace:
                case.model(**inputs)
        assert torch.equal(trace.plan.alive, turned)


def test_a_plan_is_saved_with_all_it_holds(case, tmp_path):
    spec = rcp.PluginSpec([
        rcp.StageSpec(0, 0.5, "visiondrop_encoder"), rcp.StageSpec(2, 0.25, "sparsevlm")
    ])
    plan = planned(case, plugin_for(case, spec), case.inputs([Sample(3), Sample(4, images=2)]))
    plan.save(tmp_path / "plan.safetensors")
    read = rcp.KeepPlan.load(tmp_path / "plan.safetensors")
    assert read.layers == plan.layers == (0, 2) and set(read.merges) == set(plan.merges) == {0, 1}
    assert torch.equal(read.alive, plan.alive) and torch.equal(read.visual, plan.visual)
    for stage, weights in plan.merges.items():
        assert torch.equal(read.merges[stage], weights)
    assert torch.equal(read.kept, plan.kept) and read.kept.shape == (2, 2)
    with pytest.raises(rcp.UserError, match="There is no plan file"):
        rcp.KeepPlan.load(tmp_path)


def test_one_samples_plan_is_spread_over_many_and_saved(case, tmp_path):
    plan = planned(case, plugin_for(case, rcp_spec((0, 2))), case.inputs([Sample(3)]))
    plan.spread(3).save(tmp_path / "plan.safetensors")
    read = rcp.KeepPlan.load(tmp_path / "plan.safetensors")
    assert read.kept.tolist() == [[count] * 3 for count in plan.kept[:, 0].tolist()]
    assert torch.equal(read.visual, plan.visual.expand(3, -1))


# -- masks ---------------------------------------------------------------------------------------


def test_a_window_ends_where_it_is_as_long_as_it_says():
    columns = torch.arange(5)[None]
    seen = causal(columns, columns, window=3)[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert torch.equal(causal(columns, columns, window=5), causal(columns, columns))
    assert causal(columns, columns, window=4)[0, 0, 4].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_biased_mask_is_finite_in_every_precision(dtype: torch.dtype):
    """Two floors added up would be -inf, and a row of nothing else NaN."""
    columns = torch.arange(3)[None]
    bias = key_bias(torch.tensor([[1.0, 0.0, 1.0]]))
    own = additive(causal(columns, columns), dtype)
    for mask in (None, own, causal(columns, columns)):
        biased = with_key_bias(mask, bias, columns, dtype)
        assert biased.dtype == dtype and biased.isfinite().all()
        # fp64 goes through fp32, whose floor is its floor here
        floor = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
        assert (biased[0, 0, 0, 1:] <= floor * 0.99).all()
        assert biased[0, 0, 2].tolist() == pytest.approx([0.0, -27.631, 0.0], abs=0.1)
        weights = biased.float().softmax(-1)
        assert weights.isfinite().all() and weights[0, 0, 2, 1] < 1e-11


def test_an_additive_mask_holds_its_types_own_floor():
    mask = additive(torch.tensor([[[[True, False]]]]), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert mask[0, 0, 0].tolist() == [0.0, torch.finfo(torch.bfloat16).min]
    given = torch.tensor([[[[0.0, -5.0]]]])
    assert torch.equal(additive(given, torch.float16), given.half())


def test_key_bias_is_the_logarithm_of_what_is_kept():
    found = key_bias(torch.tensor([[1.0, 0.5, 0.0]]))
    assert found.shape == (1, 1, 1, 3)
    assert found.flatten().tolist() == pytest.approx([0.0, -0.693147, -27.631021], abs=1e-5)


def masks_given(case, plugin, inputs) -> list[Tensor | None]:
    """What each layer gets as its mask in a prefill without the dropped tokens."""
    given = []
    with rcp.attach(case.model, plugin):
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: given.append(kwargs["attention_mask"]), with_kwargs=True
            )
            for layer in case.model.get_decoder().layers
        ]
        case.model(**inputs)
        for hook in hooks:
            hook.remove()
    return given


@torch.no_grad()
def test_equally_long_rows_go_on_without_a_mask_and_ragged_ones_with_one(case):
    """As in the model itself: attention without one is the faster."""
    plugin = plugin_for(case, rcp_spec((0, 2), (0.5, 0.2), ()))
    alike = masks_given(case, plugin, case.inputs([Sample(3), Sample(6)]))
    assert alike == [None] * len(case.model.get_decoder().layers)
    ragged = masks_given(case, plugin, case.inputs([Sample(3), Sample(6, images=2)]))
    assert not any(mask is None for mask in ragged)


VALID = torch.tensor([[True, False], [True, True]])
INDEX = torch.tensor([[0, 2], [1, 2]])


def test_masks_are_gathered_in_the_format_they_came_in():
    full = torch.arange(9.0).reshape(1, 1, 3, 3)
    taken = gather_mask(full, INDEX, None, "sdpa")
    assert taken[:, 0].tolist() == [[[0, 2], [6, 8]], [[4, 5], [7, 8]]]
    lowest = torch.finfo(torch.float32).min
    hidden = gather_mask(full, INDEX, VALID, "sdpa")
    assert hidden[:, 0].tolist() == [[[0, lowest], [6, lowest]], [[4, 5], [7, 8]]]
    padding = torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert gather_mask(padding, INDEX, None, "flash_attention_2").tolist() == [[1, 1], [1, 1]]
    assert gather_mask(padding, INDEX, VALID, "flash_attention_2").tolist() == [[1, 0], [1, 1]]
    assert gather_mask(None, INDEX, None, "sdpa") is None
    plain = gather_mask(None, INDEX, VALID, "sdpa")
    assert plain[:, 0].int().tolist() == [[[1, 0], [1, 0]], [[1, 0], [1, 1]]]
    assert gather_mask(None, INDEX, VALID, "eager")[0, 0, 0].tolist() == [0.0, lowest]
    assert gather_mask(None, INDEX, VALID, "flash_attention_2") is VALID
    allowed = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    assert forbid_keys(allowed, VALID)[:, 0, 0].tolist() == VALID.tolist()
    assert render(allowed, None, "sdpa", torch.float32) is allowed
