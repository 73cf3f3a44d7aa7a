"""The cost model against what torch counts and what a cache allocates."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

import rcp
from rcp.backbones import backbone_for
from rcp.base_model.cost import (
    AttentionSizes,
    DecoderSizes,
    kv_bytes,
    layer_flops,
    paper_prefill_flops,
    per_layer,
    prefill_flops,
)
from rcp.base_model.sizes import decoder_sizes
from rcp.evaluation.generation import allocated_bytes
from tests.families import ENTRY_FAMILIES, FAMILIES, Sample
from tests.tiny import IMAGE, TOKENS, rcp_spec, tiny_inputs

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "pad_token_id": 0,
}
DECODERS = {
    "llama, head_dim wider than width/heads": LlamaConfig(**SIZES, head_dim=16),
    "llama, multi-head": LlamaConfig(**SIZES | {"num_key_value_heads": 6}),
    "mistral, window": MistralConfig(**SIZES, head_dim=4, sliding_window=9),
    "qwen2": Qwen2Config(**SIZES),
}
SCHEDULES = [((0,), (0.25,)), ((1, 3), (0.5, 0.2)), ((2, 3, 5), (0.9, 0.1, 0.0)), ((4,), (1.0,))]


def llava(text_config: object) -> nn.Module:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return llava(DECODERS[request.param])


def counted(call, *modules: str, owner: str = "LlavaForConditionalGeneration") -> int:
    """FLOPs that torch counts in ``call``, all, or those of the named modules of ``owner``."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            call()
    if not modules:
        return counter.get_total_flops()
    found = counter.get_flop_counts()
    return sum(sum(found[f"{owner}.{name}"].values()) for name in modules)


def spec(method: str, layers: tuple[int, ...], ratios: tuple[float, ...]) -> rcp.PluginSpec:
    return rcp.PluginSpec([rcp.StageSpec(at, kept, method) for at, kept in zip(layers, ratios)])


def prefill(model: nn.Module, inputs: dict[str, torch.Tensor]):
    with torch.no_grad():
        return model(**inputs, use_cache=True, logits_to_keep=1)


def test_layers_of_unlike_attentions_are_counted_one_by_one() -> None:
    """Two heads of 4 beside one of 8, keys that are values: by hand, width 10 and 3 rows."""
    wide, narrow = AttentionSizes(2, 2, 4, 24), AttentionSizes(1, 1, 8, 24)
    facts = DecoderSizes(10, 7, 2, 2, 4, 5, True, (None, None), attentions=(wide, narrow))
    mlp = 2 * 3 * 10 * 7 * 3
    assert layer_flops(facts, 3, 0) == 2 * 3 * 10 * 24 + 4 * 9 * 2 * 4 + mlp
    assert layer_flops(facts, 3, 1) == 2 * 3 * 10 * 24 + 4 * 9 * 1 * 8 + mlp
    assert kv_bytes(facts, [3, 2], value_bytes=2) == [2 * 2 * 4 * 3 * 2, 2 * 1 * 8 * 2 * 2]
    mixed = replace(facts, experts=6, dense=(20, None), attentions=())
    assert layer_flops(mixed, 1, 0) - layer_flops(mixed, 1, 1) == 2 * 10 * (3 * (20 - 7) - 6)


def test_flops_of_a_full_prefill(model: nn.Module) -> None:
    facts = decoder_sizes(backbone_for(model))
    inputs = tiny_inputs((7,), (1,))
    rows = [inputs["input_ids"].shape[1]] * facts.layers
    found = counted(lambda: prefill(model, inputs), "model.language_model", "lm_head")
    assert prefill_flops(facts, rows) == pytest.approx(found, rel=0.01)


def test_the_facts_that_make_a_difference_are_read(model: nn.Module) -> None:
    """A model that ignored grouped keys or head_dim would pass on a decoder that has neither."""
    facts = decoder_sizes(backbone_for(model))
    attention = model.get_decoder().layers[0].self_attn
    assert attention.q_proj.weight.shape == (facts.heads * facts.head_dim, facts.hidden)
    assert attention.k_proj.weight.shape == (facts.kv_heads * facts.head_dim, facts.hidden)
    assert facts.gated and facts.intermediate == 112


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted_right(family: str) -> None:
    """Text only: image towers are not the decoder's business."""
    case = FAMILIES[family]()
    facts = decoder_sizes(backbone_for(case.model))
    if facts.experts:  # torch does not count the grouped product that runs by default
        case.model.set_experts_implementation("eager")
    inputs = case.inputs([Sample(images=0, question=20)])
    rows = [inputs["input_ids"].shape[1]] * facts.layers
    cache = None

    def call() -> None:
        nonlocal cache
        cache = prefill(case.model, inputs).past_key_values

    found = counted(call)
    if "logits_to_keep" not in inspect.signature(case.model.forward).parameters:
        found -= 2 * facts.hidden * facts.vocab * (rows[0] - 1)  # it predicts after every token
    assert prefill_flops(facts, rows) == pytest.approx(found, rel=0.01)
    assert kv_bytes(facts, rows, value_bytes=4) == allocated_bytes(cache)


def recurrent(model: nn.Module) -> int:
    """FLOPs a row of the running states, which torch's kernels count in blocks of rows."""
    layers = backbone_for(model).layers
    mixers = [layer.linear_attn for layer in layers if hasattr(layer, "linear_attn")]
    return sum(6 * one.num_v_heads * one.head_k_dim * one.head_v_dim for one in mixers)


@pytest.mark.parametrize("family", ENTRY_FAMILIES)
def test_families_that_lose_tokens_before_their_decoder_are_counted_right(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the recurrence itself taken out."""
    case = ENTRY_FAMILIES[family]()
    facts = decoder_sizes(backbone_for(case.model))
    if facts.experts:
        case.model.set_experts_implementation("eager")
    inputs = case.inputs([Sample(images=0, question=20)])
    count = inputs["input_ids"].shape[1]
    cache = None

    def call() -> None:
        nonlocal cache
        with torch.no_grad():
            cache = case.model(**inputs, use_cache=True).past_key_values

    for layer in backbone_for(case.model).layers:
        if hasattr(layer, "linear_attn"):
            rule = inspect.getmodule(type(layer.linear_attn))
            monkeypatch.setattr(rule, "torch_chunk_gated_delta_rule", without_products)
    names = {module: name for name, module in case.model.named_modules()}
    parts = names[backbone_for(case.model).decoder], names[case.model.get_output_embeddings()]
    found = counted(call, *parts, owner=type(case.model).__name__)
    found -= 2 * facts.hidden * facts.vocab * (count - 1)  # it predicts after every token
    if family == "llama4":  # it multiplies every row by each of four experts, and three by zero
        found -= count * 3 * 3 * (2 * facts.hidden * 96 * 3)
    expected = prefill_flops(facts, [count] * facts.layers) - count * recurrent(case.model)
    assert expected == pytest.approx(found, rel=0.01)
    assert kv_bytes(facts, [count] * facts.layers, value_bytes=4) == allocated_bytes(cache)


def without_products(query, key, value, **_):
    """Of the right shapes, and free."""
    state = value.new_zeros(len(value), value.shape[2], key.shape[-1], value.shape[-1])
    return value, state


def test_a_running_state_costs_what_its_recurrence_multiplies() -> None:
    """Qwen3.5 by hand: width 48, 4 value and 2 key heads of 8, a kernel of 4, 5 rows."""
    facts = decoder_sizes(backbone_for(ENTRY_FAMILIES["qwen3_5"]().model))
    channels = 2 * 16 + 32
    projections = 2 * 48 * (channels + 32 + 4 + 4 + 32)
    recurrence, convolution = 3 * 2 * 4 * 8 * 8, 2 * channels * 4
    mlp = 2 * 48 * 96 * 3
    assert layer_flops(facts, 5, 0) == 5 * (projections + recurrence + convolution + mlp)
    assert kv_bytes(facts, [5] * 6, value_bytes=2)[0] == (4 * 8 * 8 + channels * 4) * 2
    assert kv_bytes(facts, [9] * 6, value_bytes=2)[0] == kv_bytes(facts, [5] * 6, 2)[0]
    keys = kv_bytes(facts, [9] * 6, value_bytes=2)[2]
    assert keys == 2 * 2 * 16 * 9 * 2, "two heads of 16, keys and values"


def test_a_short_convolution_costs_its_kernel() -> None:
    """LFM2-VL by hand: width 48, a kernel of 3, 5 rows."""
    facts = decoder_sizes(backbone_for(ENTRY_FAMILIES["lfm2_vl"]().model))
    assert layer_flops(facts, 5, 0) == 5 * (2 * 48 * 4 * 48 + 2 * 48 * 3 + 2 * 48 * 96 * 3)
    assert kv_bytes(facts, [5] * 6, value_bytes=4)[0] == 48 * 3 * 4


@pytest.mark.parametrize("layers, ratios", SCHEDULES)
def test_flops_of_a_pruned_prefill(
    model: nn.Module, layers: tuple[int, ...], ratios: tuple[float, ...]
) -> None:
    """A uniform grid multiplies no matrices: all that is counted is the model's own work."""
    facts = decoder_sizes(backbone_for(model))
    inputs = tiny_inputs((7,), (1,))
    text = inputs["input_ids"].shape[1] - TOKENS
    plugin = rcp.Plugin.for_model(spec("uniform", layers, ratios), model)
    schedule = plugin.schedule
    kept = [TOKENS, *(schedule.count(stage, TOKENS) for stage in range(len(layers)))]
    rows = per_layer(schedule.spans, [text + count for count in kept])
    with rcp.attach(model, plugin, "drop"):
        found = counted(lambda: prefill(model, inputs), "model.language_model", "lm_head")
    assert prefill_flops(facts, rows) == pytest.approx(found, rel=0.01)
    if ratios != (1.0,):
        full = [text + TOKENS] * facts.layers
        assert prefill_flops(facts, rows) < 0.99 * prefill_flops(facts, full)


@pytest.mark.parametrize("layers, ratios", SCHEDULES)
@pytest.mark.parametrize("questions, images", [((5, 5), (1, 1)), ((4, 9, 6), (1, 2, 0))])
def test_kv_bytes_are_those_allocated(
    model: nn.Module,
    questions: tuple[int, ...],
    images: tuple[int, ...],
    layers: tuple[int, ...],
    ratios: tuple[float, ...],
) -> None:
    """A ragged batch holds, under each stage, as many rows as its longest sample."""
    facts = decoder_sizes(backbone_for(model))
    inputs = tiny_inputs(questions, images)
    plugin = rcp.Plugin.for_model(spec("random", layers, ratios), model)
    with rcp.attach(model, plugin, "drop"):
        cache = prefill(model, inputs).past_key_values
    held = [inputs["input_ids"].shape[1]]
    for alive in rcp.plan_of(cache).alive:
        held.append(int(alive.sum(-1).max()))
    if ratios == (1.0,):
        held[1] = held[0]  # nothing went, padding neither
    rows = per_layer(plugin.schedule.spans, held)
    allocated = [size // len(questions) for size in allocated_bytes(cache)]
    assert kv_bytes(facts, rows, value_bytes=4) == allocated


def test_kv_bytes_follow_the_precision(model: nn.Module) -> None:
    facts = decoder_sizes(backbone_for(model))
    inputs = tiny_inputs((5, 5))
    cache = prefill(model.bfloat16(), inputs).past_key_values
    rows = [inputs["input_ids"].shape[1]] * facts.layers
    assert kv_bytes(facts, rows, value_bytes=2) == [n // 2 for n in allocated_bytes(cache)]


def test_what_a_plugin_adds_is_what_it_multiplies(tiny_llava: nn.Module) -> None:
    """Counted beyond the decoder: q and k projections of each stage, the pruner, the repair."""
    facts = decoder_sizes(backbone_for(tiny_llava))
    inputs = tiny_inputs((7,), (1,))
    length = inputs["input_ids"].shape[1]
    plugin = rcp.Plugin.for_model(rcp_spec((1,), (0.5,), repair=()), tiny_llava).eval()
    rows = per_layer(plugin.schedule.spans, [length, length - TOKENS // 2])
    with rcp.attach(tiny_llava, plugin, "drop"):
        found = counted(lambda: prefill(tiny_llava, inputs))
    vision = counted(lambda: tiny_llava.get_image_features(inputs["pixel_values"]))
    extra = found - vision - prefill_flops(facts, rows)
    questions, inner, queries = 8, 16, 4  # the question: all text after the image
    head = facts.heads * facts.head_dim
    attention = 2 * questions * 48 * head + 2 * length * 48 * facts.kv_heads * facts.head_dim
    attention += 2 * questions * length * head
    pruner = 2 * TOKENS * 48 * inner + 2 * 48 * inner  # visual tokens, mean question
    pruner += 2 * queries * inner**2 + 2 * TOKENS * inner**2  # q and k of the cross-attention
    pruner += 2 * queries * TOKENS * inner + 2 * TOKENS * queries  # logits, mix
    pruner += 2 * TOKENS * inner**2 + 2 * TOKENS * inner  # per-token MLP
    assert extra == pytest.approx(attention + pruner, rel=0.01)


def test_an_mlp_without_gate_has_two_matrices() -> None:
    config = GPTNeoXConfig(
        hidden_size=48,
        intermediate_size=112,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=120,
    )
    model = GPTNeoXForCausalLM(config).eval()
    facts = DecoderSizes(48, 112, 4, 4, 12, 120, gated=False, windows=(None,) * 3)
    ids = torch.arange(20)[None]
    found = counted(lambda: model(ids, logits_to_keep=1))
    assert prefill_flops(facts, [20] * 3) == pytest.approx(found, rel=0.01)


def test_the_paper_formula_is_that_of_plain_multi_head_attention() -> None:
    """LLaVA-1.5-7B is one: there the formula and the exact count of a layer agree."""
    facts = DecoderSizes(4096, 11008, 32, 32, 128, 32000, gated=True, windows=(None,) * 32)
    assert layer_flops(facts, 586) == paper_prefill_flops(4096, 11008, [586])
    grouped = replace(facts, kv_heads=8)
    assert layer_flops(grouped, 586) < paper_prefill_flops(4096, 11008, [586])
