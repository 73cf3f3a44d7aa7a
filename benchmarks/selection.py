"""How much of a pruned prefill goes into choosing the tokens: all methods in one run.

    python -m benchmarks.selection --output benchmarks/results/selection.json

A random LLaVA of 0.35 B (24 Llama layers, width 1024; a vision tower as wide, of two layers) on
one image of 576 visual tokens of which 64 enter the decoder, and on five of which 640 do. One
thread, and its CPU time: other processes do not count. Prefills of the methods alternate; a share
is that of `select` in its own prefill, the median over rounds.
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
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import rcp
from benchmarks.environment import environment
from rcp.choosing.view import View

METHODS = ("random", "uniform", "divprune", "todre", "agilepruner", "mmtok", "zoo_prune")
CASES = {1: 0.03, 5: 0.05}
"""Images: the share that is asked for at most."""
KEPT = {1: 64, 5: 640}
"""Images: the tokens that enter the decoder."""
PATCH = 14


def llava(side: int, layers: int, width: int) -> Any:
    """A random model whose images of ``side`` pixels are (side / 14)² tokens."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        vocab_size=32 * width,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        image_size=side,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=text.vocab_size - 1,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


class Selecting:
    """One method before the decoder, and the times of its prefills."""

    def __init__(self, model: Any, method: str, kept: float) -> None:
        self.model = model
        spec = rcp.PluginSpec([rcp.StageSpec(0, kept, method)])
        self.plugin = rcp.Plugin.for_model(spec, model).eval()
        self.pruner: Any = self.plugin.pruner(0)
        self.selecting: list[float] = []
        self.prefill: list[float] = []
        self._select = self.pruner.select
        self.pruner.select = self._timed

    def _timed(self, view: View, counts: Tensor) -> Tensor:
        start = time.process_time()
        keep = self._select(view, counts)
        self.selecting.append(time.process_time() - start)
        return keep

    @torch.no_grad()
    def run(self, inputs: dict[str, Tensor]) -> None:
        with rcp.attach(self.model, self.plugin, "drop"):
            start = time.process_time()
            self.model(**inputs, use_cache=True, logits_to_keep=1)
            self.prefill.append(time.process_time() - start)

    @property
    def share(self) -> float:
        """Of the first run nothing is told: it warms up."""
        return statistics.median(
            part / whole for part, whole in zip(self.selecting[1:], self.prefill[1:])
        )


def measure(
    model: Any, methods: Sequence[str], images: int, kept: int, rounds: int
) -> list[dict[str, Any]]:
    """One row a method."""
    side = model.config.vision_config.image_size
    count = images * (side // PATCH) ** 2
    ids = torch.tensor([[1, *[model.config.image_token_index] * count, *range(10, 74)]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(images, 3, side, side)}
    contestants = {name: Selecting(model, name, kept / count) for name in methods}
    for _ in range(rounds + 1):
        for contestant in contestants.values():
            contestant.run(inputs)
    return [
        {
            "visual_tokens": count,
            "kept": kept,
            "method": name,
            "select_ms": round(1e3 * statistics.median(contestant.selecting[1:]), 2),
            "prefill_ms": round(1e3 * statistics.median(contestant.prefill[1:]), 1),
            "share": round(contestant.share, 4),
            "asked": CASES[images],
        }
        for name, contestant in contestants.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.selection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME",
                        help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--images", type=int, nargs="+", choices=CASES, default=list(CASES),
                        help="how many, of 576 tokens each (default: 1 and 5)")
    parser.add_argument("--side", type=int, default=336,
                        help="of the images in pixels, a multiple of 14")
    parser.add_argument("--layers", type=int, default=24, help="of the decoder")
    parser.add_argument("--width", type=int, default=1024, help="of decoder and vision tower")
    parser.add_argument("--rounds", type=int, default=3, help="prefills of each method")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = llava(options.side, options.layers, options.width)
    tokens = (options.side // PATCH) ** 2
    rows = []
    for images in options.images:
        kept = max(1, KEPT[images] * tokens // 576)
        for row in measure(model, options.methods, images, kept, options.rounds):
            print(*row.values(), sep="\t", flush=True)
            rows.append(row)
    command = ["python", "-m", "benchmarks.selection", *(arguments or sys.argv[1:])]
    setting = {name: value for name, value in vars(options).items() if name != "output"}
    report = environment(command) | {"setting": setting, "rows": rows}
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
