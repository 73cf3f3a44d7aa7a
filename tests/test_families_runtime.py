"""No waiting for the device, half precision, and the pipeline users start with."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rcp import PluginSpec, StageSpec, UserError, attach, plan_of
from rcp.pruners import PRUNERS, mmtok
from tests.decoding import REFERENCES, dropped, error, family, generated, logits, plugin_for
from tests.families import FAMILIES, Sample
from tests.families.case import IMAGE
from tests.tiny import attention_spec, rcp_spec

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "equal",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave.Tensor",
)


class Waits(TorchDispatchMode):
    """Counts the operations that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.reading = _Reads()

    def __enter__(self):
        self.reading.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.reading.__exit__(*error)
        self.count += self.reading.count

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += name in WAITING or function.__name__ in WAITING or by_mask
        return function(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """``tolist`` and its kin read host memory directly on a CPU, below any dispatch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") == "tolist"
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def waits(case, inputs) -> tuple[int, int]:
    """How often a prefill and a decode step wait."""
    with Waits() as prefill:
        output = case.model(**inputs, use_cache=True)  # some keep none unless asked
    token = torch.full((len(inputs["input_ids"]), 1), 20)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(token)], 1)
    step = {"input_ids": token, "attention_mask": mask}
    step["position_ids"] = mask.cumsum(1)[:, -1:] - 1
    with Waits() as decode:
        case.model(**step, past_key_values=output.past_key_values)
    return prefill.count, decode.count


def test_the_counter_counts():
    mask = torch.tensor([True, False])
    with Waits() as counter:
        mask.any().item()
        mask.tolist()
        mask[mask]
        mask.nonzero()
        mask.long().sum()
    assert counter.count >= 4


RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_plugin_never_waits_but_once_in_a_prefill(name, reference):
    case = family(name)
    inputs = case.inputs(RAGGED)
    prefill, decode = waits(case, inputs)
    with attach(case.model, plugin_for(case, REFERENCES[reference]()), "drop"):
        prefill_with, decode_with = waits(case, inputs)
    assert decode_with <= decode
    assert prefill_with <= prefill + 1


@torch.no_grad()
def waits_within(case, inputs) -> tuple[int, int]:
    """How often the decoder waits in a prefill, stages included; and how often it runs."""
    counter, decoder, runs = Waits(), case.model.get_decoder(), 0
    inner = decoder.forward

    def counted(*args, **kwargs):
        nonlocal runs
        runs += 1
        with counter:
            return inner(*args, **kwargs)

    decoder.forward = counted
    try:
        case.model(**inputs)
    finally:
        del decoder.forward
    return counter.count, runs


def waits_by_nature(method: str) -> bool:
    """How many it keeps is up to the data, or it runs the whole decoder ahead, masks and all, or
    the number of frames and of their tokens that are left is the shape of what it computes."""
    pruner = PRUNERS.get(method)
    return pruner.may_drop_all or "full_attention" in pruner.needs or method == "aot"


@pytest.mark.parametrize("policy", ["keep", "repack"])
@pytest.mark.parametrize("method", [name for name in PRUNERS.names() if not waits_by_nature(name)])
def test_no_stage_waits(method, policy, monkeypatch):
    """The one wait of a prefill is over before the first layer, whatever the method."""
    # on a CPU MMTok looks at what it has computed, which is no wait there
    monkeypatch.setattr(mmtok, "_less_by_few", mmtok._less)
    case = family("llava-llama")
    first = 0 if policy == "repack" else 1
    stages = [StageSpec(first, 0.5, method), StageSpec(3, 0.2, method)]
    try:
        plugin = plugin_for(case, PluginSpec(stages, position_policy=policy))
        handle = attach(case.model, plugin, "drop")
    except UserError as refusal:
        pytest.skip(str(refusal))
    inputs = case.inputs(RAGGED)
    with handle:
        waited, runs = waits_within(case, inputs)
    assert runs == (2 if method == "oracle" else 1), "only the oracle runs the full model ahead"
    plain, _ = waits_within(case, inputs)
    assert waited == runs * plain, "the model's own masks wait already"


def test_aot_waits_twice_a_stage():
    """Once to choose, once to merge: the sizes of frames shape what it computes."""
    case = family("llava-llama")
    stages = [StageSpec(1, 0.5, "aot"), StageSpec(3, 0.2, "aot")]
    inputs = case.inputs(RAGGED)
    with attach(case.model, plugin_for(case, PluginSpec(stages)), "drop"):
        waited, _ = waits_within(case, inputs)
    plain, _ = waits_within(case, inputs)
    assert waited == plain + 2 * len(stages)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llava-llama", "qwen3_vl", "gemma3-window"])
def test_half_precision(name, dtype):
    """The choice is replayed: a rounding may swap two tokens, and that is no error.

    Without repair: a random adapter amplifies Gemma's large states beyond fp16.
    """
    case = FAMILIES[name]()
    case.model.to(dtype)
    inputs = case.inputs([Sample(3), Sample(4, question=3)])
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    plugin = plugin_for(case, rcp_spec(layers=(0, 3), repair=()))
    output = dropped(case, plugin, inputs)
    plan = plan_of(output.past_key_values)
    assert torch.stack(output.logits).isfinite().all()
    soft = logits(case, plugin, "soft", inputs, plan=plan)[:, -1].float()
    drop = logits(case, plugin, "drop", inputs, plan=plan)[:, -1].float()
    assert error(drop, soft) < 0.1


def test_pipeline():
    image_module = pytest.importorskip("PIL.Image")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import (
        CLIPImageProcessor,
        LlavaProcessor,
        PreTrainedTokenizerFast,
        pipeline,
    )

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{word}": word for word in range(3, IMAGE)}
    words["<image>"] = IMAGE
    words |= {f"w{word}": word for word in range(IMAGE + 1, 128)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    case = family("llava-llama")
    picture = image_module.new("RGB", (32, 32), (200, 30, 60))
    text = "<image> w10 w11 w12"
    inputs = processor(images=picture, text=text, return_tensors="pt")
    with attach(case.model, plugin_for(case, attention_spec()), "drop"):
        never = [0, 1, 2, *case.never]  # special tokens, which decoding leaves out
        expected = generated(case, dict(inputs), suppress_tokens=never).sequences
        describe = pipeline("image-text-to-text", model=case.model, processor=processor)
        options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        options |= {"suppress_tokens": never, "eos_token_id": None}
        answer = describe(images=picture, text=text, generate_kwargs=options)
    assert fast.decode(expected[0, -4:]) in answer[0]["generated_text"]
