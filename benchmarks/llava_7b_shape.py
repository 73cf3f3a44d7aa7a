"""LLaVA-1.5-7B's shape with random weights: time, memory and parity with and without a plug-in.

    python -m benchmarks.llava_7b_shape --output benchmarks/results/llava_7b_shape.json

A GPU with 24 GB runs it in bfloat16; `--layers 4 --width 256 --dtype float32` runs anywhere, as the
smoke test does. The plug-in has three stages of the published shares [draft] and a repair adapter;
its pruners score with random weights, which costs what trained ones cost. Parity is the largest
difference between logits with the dropped tokens gone and with the same tokens masked, relative to
the largest logit; `effect` is what masking changes, so that parity means something.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import rcp
from benchmarks.environment import environment
from rcp.cache_names import cache_in, cache_name

IMAGE, VOCABULARY = 32000, 32064
STAGES = ((2, 0.167), (10, 0.05), (20, 0.014))
"""Layer of 32 and share of the visual tokens left."""


def llava(options: argparse.Namespace) -> Any:
    """CLIP-L/336 and Llama-7B by default; narrower and shallower if asked."""
    text = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=options.width * 43 // 16,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 128),
        vocab_size=VOCABULARY,
    )
    vision = CLIPVisionConfig(
        hidden_size=options.width // 4,
        intermediate_size=options.width,
        num_hidden_layers=min(24, options.layers),
        num_attention_heads=max(1, options.width // 256),
        image_size=336,
        patch_size=14,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    torch.manual_seed(0)
    with torch.device(options.device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, options.dtype))
        try:
            model = LlavaForConditionalGeneration._from_config(
                config, attn_implementation=options.attention
            )
        finally:
            torch.set_default_dtype(before)
    return model.eval()


def plugin_for(model: Any, layers: int) -> rcp.Plugin:
    """Three stages at the same depths whatever the number of layers, and a repair of the last."""
    spec = rcp.PluginSpec(
        [rcp.StageSpec(at * layers // 32, share) for at, share in STAGES],
        rcp.RepairSpec([layers - 1]),
    )
    return rcp.Plugin.for_model(spec, model).eval()


def inputs_for(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """One image and 64 words a sample."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, 31000, (options.batch, 64), generator=generator)
    image = torch.full((options.batch, 576), IMAGE)
    ids = torch.cat([torch.ones(options.batch, 1).long(), image, words], 1)
    pixels = torch.randn(options.batch, 3, 336, 336, generator=generator)
    return {
        "input_ids": ids.to(options.device),
        "attention_mask": torch.ones_like(ids).to(options.device),
        "pixel_values": pixels.to(options.device, getattr(torch, options.dtype)),
    }


@torch.no_grad()
def timed(model: Any, inputs: dict[str, torch.Tensor], options: argparse.Namespace) -> Any:
    """Medians of prefill and of a decode step in milliseconds, and memory in MiB."""
    cuda = options.device == "cuda"
    prefill, steps, cached = [], [], 0
    for _ in range(options.repeats + 1):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        held: dict[str, Any] = {}
        prefill.append(_milliseconds(lambda: held.update(model(**inputs, use_cache=True)), cuda))
        cache, token = cache_in(held), inputs["input_ids"][:, -1:]
        steps += [
            _milliseconds(lambda: model(input_ids=token, **{cache_name(model): cache}), cuda)
            for _ in range(options.steps)
        ]
        cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return {
        "prefill_ms": round(statistics.median(prefill[1:]), 2),
        "decode_ms": round(statistics.median(steps[options.steps :]), 2),
        "cache_mib": round(cached / 2**20, 2),
        "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None,
    }


def _milliseconds(work: Callable[[], object], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


@torch.no_grad()
def parity(model: Any, plugin: rcp.Plugin, inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Gone against masked, by one plan: rounding may swap two tokens, and that is no error."""
    full = model(**inputs).logits[:, -1].float()
    with rcp.attach(model, plugin, "drop") as handle, handle.trace() as trace:
        drop = model(**inputs).logits[:, -1].float()
    with rcp.attach(model, plugin, "soft", plan=trace.plan):
        soft = model(**inputs).logits[:, -1].float()
    scale = soft.abs().max()
    return {
        "parity": ((drop - soft).abs().max() / scale).item(),
        "effect": ((full - soft).abs().max() / scale).item(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write one JSON file."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llava_7b_shape",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--layers", type=int, default=32, help="of the decoder")
    parser.add_argument("--width", type=int, default=4096, help="of the decoder")
    parser.add_argument("--batch", type=int, default=1, help="samples in a prefill")
    parser.add_argument("--repeats", type=int, default=10, help="timed prefills")
    parser.add_argument("--steps", type=int, default=20, help="decode steps after each prefill")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "flash_attention_2"])
    options = parser.parse_args(arguments)
    model = llava(options)
    plugin, inputs = plugin_for(model, options.layers), inputs_for(options)
    rows = {"full": timed(model, inputs, options)}
    with rcp.attach(model, plugin, "drop"):
        rows["three stages, repair"] = timed(model, inputs, options)
    command = ["python", "-m", "benchmarks.llava_7b_shape", *(arguments or sys.argv[1:])]
    report: dict[str, Any] = environment(command)
    report["setting"] = {key: value for key, value in vars(options).items() if key != "output"}
    report["mean_kept"] = plugin.mean_ratio
    report["rows"] = rows
    if options.attention == "sdpa":  # masks need a 4-D one
        report |= parity(model, plugin, inputs)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report.get(key) for key in ("rows", "parity", "effect")}, indent=2))


if __name__ == "__main__":
    main()
