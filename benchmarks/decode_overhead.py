"""What an attached plug-in costs or saves in a decode step: all contestants in one run.

    python -m benchmarks.decode_overhead --output benchmarks/results/decode_overhead.json

A random LLaVA (24 Llama layers, width 512) on two prompts: 16 visual tokens, where dropping saves
nothing and the step shows what the hooks cost, and 576, where the cache is shorter for it. One
thread, and its CPU time: other processes do not count. Steps of the contestants alternate; a ratio
is between medians.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
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
from rcp.attaching.cache_names import cache_in, cache_name

IMAGE = 2047
PATCH = 14
STAGES = ((2, 0.25), (8, 0.1), (16, 0.05))


def llava(side: int, layers: int, width: int) -> Any:
    """A random model whose images of ``side`` pixels are (side / 14)² tokens."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        vocab_size=2048,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config).eval()


def plugins(model: Any, layers: int) -> dict[str, rcp.Plugin | None]:
    """The contestants by name; None is the model as it is."""
    stages = [(at * layers // 24, ratio) for at, ratio in STAGES]
    last = [layers - 1]

    def plugin(keep_all: bool, repair: bool) -> rcp.Plugin:
        spec = rcp.PluginSpec(
            [rcp.StageSpec(at, 1.0 if keep_all else kept, "uniform") for at, kept in stages],
            rcp.RepairSpec(last) if repair else None,
        )
        return rcp.Plugin.for_model(spec, model).eval()

    return {
        "model alone": None,
        "keep all": plugin(keep_all=True, repair=False),
        "three stages": plugin(keep_all=False, repair=False),
        "three stages, repair": plugin(keep_all=False, repair=True),
    }


class Decoding:
    """One contestant with a cache of its own."""

    def __init__(self, model: Any, plugin: rcp.Plugin | None, inputs: dict[str, Any]) -> None:
        self.model = model
        self.plugin = plugin
        self.token = torch.full((len(inputs["input_ids"]), 1), 5)
        self.cache: Any = None
        self.seconds: list[float] = []
        self.run(inputs, 0)

    @torch.no_grad()
    def run(self, inputs: dict[str, Any], steps: int) -> None:
        """A prefill if there is no cache yet, then timed ``steps``."""
        handle = None if self.plugin is None else rcp.attach(self.model, self.plugin, "drop")
        try:
            if self.cache is None:
                self.cache = cache_in(self.model(**inputs, use_cache=True))
            for _ in range(steps):
                start = time.process_time()
                self.model(input_ids=self.token, **{cache_name(self.model): self.cache})
                self.seconds.append(time.process_time() - start)
        finally:
            if handle is not None:
                handle.remove()


def measure(side: int, layers: int, width: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """One row a contestant."""
    model = llava(side, layers, width)
    count = (side // PATCH) ** 2
    ids = torch.tensor([[1, 2, *[IMAGE] * count, *range(10, 40)]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, side, side)}
    contestants = {
        name: Decoding(model, plugin, inputs) for name, plugin in plugins(model, layers).items()
    }
    for _ in range(rounds):
        for contestant in contestants.values():
            contestant.run(inputs, steps)
    alone = statistics.median(contestants["model alone"].seconds)
    return [
        {
            "visual_tokens": count,
            "entrant": name,
            "milliseconds_per_step": round(1e3 * statistics.median(contestant.seconds), 3),
            "ratio_to_the_model_alone": round(
                statistics.median(contestant.seconds) / alone, 3
            ),
        }
        for name, contestant in contestants.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--sides", type=int, nargs="+", default=[56, 336],
                        help="sides of the images in pixels, multiples of 14")
    parser.add_argument("--layers", type=int, default=24, help="of the decoder")
    parser.add_argument("--width", type=int, default=512, help="of the decoder")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=10, help="steps of each contestant a round")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [
        row
        for side in options.sides
        for row in measure(side, options.layers, options.width, options.rounds, options.steps)
    ]
    command = ["python", "-m", "benchmarks.decode_overhead", *(arguments or sys.argv[1:])]
    setting = {name: value for name, value in vars(options).items() if name != "output"}
    report = environment(command) | {"setting": setting, "rows": rows}
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
