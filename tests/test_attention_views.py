"""What methods see of the decoder's attention is what eager attention computes."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

import rcp
from rcp.attaching.forwards.attention import LayerAttention
from rcp.choosing.positions import Positions
from rcp.choosing.view import mean_over_question
from tests.decoding import family
from tests.families import Sample
from tests.probe import probing
from tests.tiny import IMAGE, tiny_inputs

NEEDS = ("question_attention", "attention", "attention_before", "layer_input", "transitions",
         "full_attention")
TOLERANCE = 1e-6  # fp32 probabilities


@pytest.fixture
def batch():
    return tiny_inputs(questions=(5, 9, 6), images=(1, 2, 1))


@pytest.fixture
def eager(tiny_llava, batch):
    """All attention weights, layer inputs, and inputs and outputs of blocks, by layer."""
    tiny_llava.set_attn_implementation("eager")
    blocks = {}
    hooks = []
    for at, layer in enumerate(tiny_llava.get_decoder().layers):
        for name in ("self_attn", "mlp"):
            hooks.append(getattr(layer, name).register_forward_hook(
                lambda _, args, kwargs, out, key=(at, name): blocks.update(
                    {key: (args[0] if args else kwargs["hidden_states"],
                           out[0] if isinstance(out, tuple) else out)}),
                with_kwargs=True))
    with torch.no_grad():
        out = tiny_llava(**batch, output_attentions=True, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    tiny_llava.set_attn_implementation("sdpa")
    return out.attentions, out.hidden_states, blocks


def columns(batch, row):
    """Image columns and question columns of one row: what follows the last image."""
    image = (batch["input_ids"][row] == IMAGE).nonzero()[:, 0]
    return image, torch.arange(image[-1] + 1, batch["input_ids"].shape[1])


def views(model, batch, mode):
    plugin, probes = probing(model, NEEDS)
    with rcp.attach(model, plugin, mode), torch.no_grad():
        model(**batch)
    return {at: probe.views[0] for at, probe in probes.items()}


def test_blocks_are_those_of_eager_attention(tiny_llava, batch, eager):
    weights = eager[0]
    view = views(tiny_llava, batch, "drop")[1]  # nothing dropped yet
    for layer, seen in ((1, view.attention), (0, view.attention_before)):
        for row in range(3):
            image, question = columns(batch, row)
            n, q = len(image), len(question)
            full = weights[layer][row]
            for (ask, at, real) in (("question", question, q), ("last", question[-1:], 1),
                                    ("visual", image, n)):
                found = seen(ask)[row]
                assert (found[:, :real, :n] - full[:, at][:, :, image]).abs().max() < TOLERANCE
                assert not found[:, real:].any() and not found[:, :, n:].any()
            text = seen("question", "question")[row, :, :q, :q]
            assert (text - full[:, question][:, :, question]).abs().max() < TOLERANCE
            among = full[:, question][:, :, image]
            among = among / among.sum(-1, keepdim=True)
            found = seen("question", among_visual=True)[row, :, :q, :n]
            assert (found - among).abs().max() < 1e-5
    assert torch.allclose(
        view.question_attention, mean_over_question(view.attention("question"), view.question_valid)
    )


def test_rotary_can_be_left_out(tiny_llava, batch):
    """Without positions, attention among visual keys no longer knows their order."""
    seen = views(tiny_llava, batch, "drop")[1].attention_before
    image, question = columns(batch, 0)
    layer = tiny_llava.get_decoder().layers[0]
    with torch.no_grad():
        hidden = tiny_llava(**batch, output_hidden_states=True).hidden_states[0]
        normed = layer.input_layernorm(hidden)[0]
        query = layer.self_attn.q_proj(normed[question[-1]]).view(4, 1, 12)
        key = layer.self_attn.k_proj(normed[image]).view(-1, 2, 12).transpose(0, 1)
        logits = query @ key.repeat_interleave(2, 0).mT * layer.self_attn.scaling
    found = seen("last", rotary=False, among_visual=True)[0, :, :, :len(image)]
    assert (found - logits.softmax(-1)).abs().max() < TOLERANCE
    turned = seen("last", among_visual=True)[0, :, :, :len(image)]
    assert (found - turned).abs().max() > 0.01


def test_layer_inputs_and_the_guide_are_those_of_the_full_model(tiny_llava, batch, eager):
    weights, hidden, _ = eager
    found = views(tiny_llava, batch, "drop")
    slots = found[1].alive.shape[1]
    assert found[1].full_attention.shape == (3, len(weights), slots)  # as the view's text says
    for row in range(3):
        image, question = columns(batch, row)
        expected = torch.stack([w[row][:, question][:, :, image].mean((0, 1)) for w in weights])
        guide = found[1].full_attention[row, :, :len(image)]
        assert (guide - expected).abs().max() < TOLERANCE
        entered = found[1].layer_input[row, :len(image)] - hidden[1][row, image]
        assert entered.abs().max() < 1e-5  # of order 1; the model ran in sdpa, not eager
        half = len(image) // 2  # the probe keeps the later half
        later = found[3].full_attention[row, :, :half]
        assert (later - expected[:, half:]).abs().max() < TOLERANCE


def test_transitions_add_up_what_blocks_do_to_a_token(tiny_llava, batch, eager):
    blocks = eager[2]
    view = views(tiny_llava, batch, "drop")[1]
    for row in range(3):
        image, _ = columns(batch, row)
        real = batch["attention_mask"][row].bool()
        expected = 0
        for name in ("self_attn", "mlp"):
            entered, left = (part[row] for part in blocks[0, name])
            turned = (1 - torch.cosine_similarity(entered, left, dim=-1)).exp()
            share = turned / turned[real].sum()
            expected = expected + (left.norm(dim=-1) / entered.norm(dim=-1) * share)[image]
        assert (view.transitions[row, :len(image)] - expected).abs().max() < TOLERANCE


def test_both_modes_see_the_same_after_a_drop(tiny_llava, batch):
    soft, drop = (views(tiny_llava, batch, mode)[3] for mode in ("soft", "drop"))
    for row in range(3):
        left = soft.alive[row].nonzero()[:, 0]
        n = len(left)
        assert torch.equal(drop.rank[row, :n], left)
        for name in ("transitions", "question_attention", "full_attention"):
            gap = getattr(soft, name)[row][..., left] - getattr(drop, name)[row][..., :n]
            assert gap.abs().max() < TOLERANCE, name
        for blocks in ("attention", "attention_before"):
            for among in (False, True):
                one = getattr(soft, blocks)("question", among_visual=among)[row][..., left]
                other = getattr(drop, blocks)("question", among_visual=among)[row][..., :n]
                assert (one - other).abs().max() < TOLERANCE
        keys = soft.attention.visual_keys[row, left] - drop.attention.visual_keys[row, :n]
        assert keys.abs().max() < 1e-5


@torch.no_grad()
def test_a_question_of_one_word_is_its_own_last(tiny_llava):
    batch = tiny_inputs(questions=(0, 3), images=(1, 1))  # a separator follows each image
    seen = views(tiny_llava, batch, "drop")[1].attention
    tiny_llava.set_attn_implementation("eager")
    weights = tiny_llava(**batch, output_attentions=True).attentions[1]
    for row in range(2):
        image, _ = columns(batch, row)
        found, expected = seen("last")[row, :, 0], weights[row, :, -1][:, image]
        assert expected.std() > 1e-3 and (found - expected).abs().max() < TOLERANCE


def test_a_sample_without_a_word_asks_nothing(tiny_llava):
    batch = tiny_inputs(questions=(0, 3), images=(1, 1), side="right")
    image = batch["input_ids"][0] == IMAGE
    # the image's tokens first, so that a row in place of the question's would see one
    batch["input_ids"][0] = torch.where(image.sort(descending=True).values, IMAGE, 0)
    batch["attention_mask"][0] = batch["input_ids"][0] == IMAGE
    seen = views(tiny_llava, batch, "drop")[1]
    assert seen.question_valid.sum(1).tolist() == [0, 4]
    assert not seen.attention("last")[0].any() and not seen.question_attention[0].any()
    assert not seen.attention("visual", "last")[0].any()
    assert seen.attention("last")[1].any() and seen.attention("visual")[0].any()


@torch.no_grad()
def test_a_guide_is_the_same_beside_an_empty_cache(tiny_llava, batch):
    plugin, probes = probing(tiny_llava, ["full_attention"])
    with rcp.attach(tiny_llava, plugin, "drop"):
        for given in ({}, {"past_key_values": DynamicCache()}):
            tiny_llava(**batch, **given)
    for probe in probes.values():
        without, beside = probe.views
        assert torch.equal(without.full_attention, beside.full_attention)


@torch.no_grad()
def test_a_guide_sees_an_image_of_one_token(tiny_llava):
    plugin, probes = probing(tiny_llava, ["full_attention"], layers=(1,), ratios=(0.5,))
    with rcp.attach(tiny_llava, plugin, "drop"):
        tiny_llava(input_ids=torch.tensor([[1, 5, IMAGE, 7, 20, 21]]))
    guide = probes[1].views[0].full_attention
    assert guide.shape == (1, 6, 1) and (guide > 0).all()


@pytest.mark.parametrize("name, has", [("llava-llama", True), ("idefics3", False)])
@torch.no_grad()
def test_what_a_method_can_do_without_is_there_where_the_model_has_it(name: str, has: bool):
    case = family(name)
    plugin, probes = probing(case.model, [])
    for probe in probes.values():
        probe.uses = frozenset({"vision_cls_attention"})
    with rcp.attach(case.model, plugin, "drop"):
        case.model(**case.inputs([Sample(3)]))
    seen = [probe.views[0].vision_cls_attention for probe in probes.values()]
    assert all((fact is not None) is has for fact in seen)


def test_a_second_turn_has_no_guide(tiny_llava, batch):
    plugin, _ = probing(tiny_llava, ["full_attention"])
    with rcp.attach(tiny_llava, plugin, "drop"), torch.no_grad():
        cache = tiny_llava(**batch).past_key_values
        mask = torch.cat([batch["attention_mask"]] * 2, 1)
        length = batch["input_ids"].shape[1]
        with pytest.raises(rcp.UserError, match=f"the {length} tokens already in this cache"):
            tiny_llava(**batch | {"attention_mask": mask}, past_key_values=cache)
    assert not any(m._forward_pre_hooks for m in tiny_llava.modules())


def test_what_looks_back_is_refused_at_layer_0(tiny_llava):
    spec = rcp.PluginSpec(stages=[rcp.StageSpec(0, 0.5, "fastv")])
    with pytest.raises(rcp.UserError, match="'fastv'.*layer 1 or later"):
        rcp.Plugin.for_model(spec, tiny_llava)


@pytest.mark.parametrize(
    "question, last",
    [
        (Positions(run=range(1, 4)), [[3], [3]]),
        (Positions(torch.tensor([[0, 2], [1, 3]])), [[2], [3]]),
        (
            Positions(
                torch.tensor([[0, 2], [1, 0]]), valid=torch.tensor([[True, True], [True, False]])
            ),
            [[2], [1]],
        ),
    ],
    ids=["a run", "as many words at other places", "fewer words"],
)
def test_the_last_row_is_one_row_of_each_sample(question, last):
    place = SimpleNamespace(question=question, hidden=torch.zeros(2, 4, 1))
    found = LayerAttention._rows(SimpleNamespace(place=place), "last")
    assert found.index(place.hidden).tolist() == last
