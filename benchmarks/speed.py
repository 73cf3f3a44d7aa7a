"""Prefill and decoding, full and pruned, of a random 0.35 B LLaVA or of any model on disk.

    python -m benchmarks.speed --output benchmarks/results/speed.json
    python -m benchmarks.speed --model data/tiny-vlm --output benchmarks/results/speed_tiny_vlm.json

On a CPU by one thread, in its own CPU time: other processes do not count. All entrants take turns,
each round from another one on; figures are medians. A speed-up is the full model's prefill over an
entrant's; its efficiency is the decoder's speed-up, the image encoder's time taken off both, over
what FLOPs predict. The last row is the model without a plug-in on as many words as a stage at 0
leaves tokens: what the machine itself makes of a shorter prompt, whose time over an entrant's is
given, too. On a GPU, at the shapes of published models: python -m benchmarks.gpu.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rcp
from benchmarks import speed_page
from benchmarks.environment import environment
from benchmarks.gpu.entrants import NINTH
from benchmarks.gpu.shape import Shape, prompts, random_model
from benchmarks.gpu.speed import MIB, Entrant
from rcp.atomic_write import atomic
from rcp.attaching.cache_names import cache_in, cache_name
from rcp.attaching.given_images import encode_images
from rcp.backbones import backbone_for
from rcp.base_model.cost import kv_bytes, prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.training.estimate.planning import rows_by_layer

SHAPE = Shape(width=960, heads=15, vision_width=256, vision_layers=4)
FULL = "full model"
SHORT = "no plug-in, a prompt as short"
ANSWERS = {"short": 4, "long": 128}
"""Tokens of an answer whose whole time is given."""


def specs(layers: int) -> dict[str, rcp.PluginSpec | None]:
    """By name, for a decoder of ``layers``; None is the model without a plug-in."""
    def at(layer: int) -> int:
        return max(round(layer * layers / 32), min(layer, 1))

    def spec(stages: dict[int, float], method: str, repair: bool = False) -> rcp.PluginSpec:
        return rcp.PluginSpec(
            [rcp.StageSpec(at(layer), ratio, method) for layer, ratio in stages.items()],
            rcp.RepairSpec([at(22), at(29)]) if repair else None,
        )

    published = {1: 0.1672, 13: 0.0459, 25: 0.0144}
    return {
        FULL: None,
        "keeps all": spec({layer: 1.0 for layer in published}, "random"),
        "rcp, three stages, repair": spec(published, "rcp", repair=True),
        "rcp at 0, repair": spec({0: NINTH}, "rcp", repair=True),
        "rcp at 0": spec({0: NINTH}, "rcp"),
        "covipal at 0": spec({0: NINTH}, "covipal"),
        "random at 0": spec({0: NINTH}, "random"),
        "uniform at 0": spec({0: NINTH}, "uniform"),
        "divprune at 0": spec({0: NINTH}, "divprune"),
        "fastv at 2": spec({2: NINTH}, "fastv"),
    }


class Timed:
    """One entrant on one batch: CPU milliseconds of each repetition."""

    def __init__(self, model: Any, entrant: Entrant, inputs: dict[str, Tensor], steps: int) -> None:
        self.model = model
        self.entrant = entrant
        self.inputs = inputs
        self.steps = steps
        self.prefill: list[float] = []
        self.decode: list[float] = []
        self.cached = 0

    @torch.no_grad()
    def run(self) -> None:
        """A prefill and some decode steps more."""
        with self.entrant.attached(self.model):
            start = time.process_time()
            output = self.model(**self.inputs, use_cache=True, logits_to_keep=1)
            self.prefill.append(1e3 * (time.process_time() - start))
            cache = cache_in(output)
            self.cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            token = self.inputs["input_ids"][:, -1:]
            for _ in range(self.steps):
                start = time.process_time()
                self.model(input_ids=token, **{cache_name(self.model): cache})
                self.decode.append(1e3 * (time.process_time() - start))


def encoding(model: Any, inputs: dict[str, Tensor]) -> float:
    start = time.process_time()
    encode_images(model, inputs)
    return 1e3 * (time.process_time() - start)


def words(inputs: dict[str, Tensor], visual: int) -> dict[str, Tensor]:
    """The last tokens of ``inputs``, which are words, over and over, as many as a ninth leaves."""
    length = inputs["input_ids"].shape[1] - visual + round(NINTH * visual)
    ids = inputs["input_ids"][:, -4:].repeat(1, length)[:, :length]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def measured(
    model: Any, inputs: dict[str, Tensor], visual: int, repeats: int, steps: int
) -> list[dict[str, Any]]:
    """One row an entrant; the first repetition of each does not count."""
    backbone = backbone_for(model)
    layers, batch, length = len(backbone.layers), *inputs["input_ids"].shape
    entrants = [
        Entrant(name, None if spec is None else rcp.Plugin.for_model(spec, model).eval())
        for name, spec in specs(layers).items()
    ]
    timed = [Timed(model, entrant, inputs, steps) for entrant in entrants]
    timed.append(Timed(model, Entrant(SHORT, None), words(inputs, visual), steps))
    encoder = []
    for turn in range(repeats + 1):
        first = turn % len(timed)
        for one in timed[first:] + timed[:first]:
            one.run()
        encoder.append(encoding(model, inputs))
    facts, images = decoder_sizes(backbone), statistics.median(encoder[1:])
    full = statistics.median(timed[0].prefill[1:])
    full_flops = prefill_flops(facts, [length] * layers)
    short = statistics.median(timed[-1].prefill[1:])
    rows = []
    for one in timed:
        plugin, left = one.entrant.plugin, [one.inputs["input_ids"].shape[1]] * layers
        if plugin is not None:
            left = rows_by_layer(plugin, visual, length - visual, None).kept
        prefill, step = (statistics.median(t[1:]) for t in (one.prefill, one.decode))
        predicted = full_flops / prefill_flops(facts, left)
        encoded = images if "pixel_values" in one.inputs else 0.0
        row = {
            "entrant": one.entrant.name,
            "batch": batch,
            "visual tokens": visual,
            "prefill ms": prefill,
            "speed-up": full / prefill,
            "predicted": predicted,
            "efficiency": (full - images) / (prefill - encoded) / predicted,
            "of a prompt as short": short / (prefill - encoded),
            "decode ms": step,
            "KV MiB predicted": batch * sum(kv_bytes(facts, left, model.dtype.itemsize)) / MIB,
            "KV MiB": one.cached / MIB,
        }
        rows.append(row | {f"{name} answer ms": prefill + n * step for name, n in ANSWERS.items()})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def question(model: Any, folder: str, batch: int) -> tuple[dict[str, Tensor], int]:
    """Blank images and one question, and visual tokens of a sample, for the model in ``folder``."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    size = model.config.vision_config.image_size
    text = f"{processor.image_token} how many red circles ?"
    image = Image.new("RGB", (size, size), "white")
    inputs = dict(processor(text=[text] * batch, images=[image] * batch, return_tensors="pt"))
    visual = int(backbone_for(model).image_rows(inputs["input_ids"], None)[0].sum())
    return inputs, visual


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="folder of a model; a random one of 0.35 B without")
    parser.add_argument("--side", type=int, default=SHAPE.side,
                        help="of the random model's images in pixels: 336 are 576 visual tokens")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="decode steps after each prefill")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    command = ["python", "-m", "benchmarks.speed", *sys.argv[1:]]
    shape = replace(SHAPE, side=options.side)
    if options.model is None:
        model = random_model(shape, "cpu", torch.float32)
    else:
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32)
        model = model.eval()
    for batch in options.batches:
        if options.model is None:
            inputs, visual = prompts(shape, batch, "cpu", torch.float32), shape.visual_tokens
        else:
            inputs, visual = question(model, options.model, batch)
        rows += measured(model, inputs, visual, options.repeats, options.steps)
        found = {"environment": environment(command), "rows": rows}
        with atomic(options.output) as unfinished:
            unfinished.write_text(json.dumps(found, indent=2) + "\n")
        speed_page.write(found, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
