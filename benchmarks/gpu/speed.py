"""Prefill and decoding at LLaVA-1.5-7B's shape, full and pruned, at several batches.

Times are medians over repetitions in which all entrants take turns, after one that does not count.
A speed-up is the full model's prefill over an entrant's; its efficiency is the decoder's speed-up,
the image encoder's time taken off both, over what FLOPs predict. Last comes parity at this shape:
how far the logits of dropped tokens are from those of masked ones, and what masking changes.
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

import rcp
from benchmarks.gpu.counting import launched, operations
from benchmarks.gpu.entrants import FULL, RCP, specs
from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.gpu.shape import TEXT, Shape, prompts, random_model, shape_for
from benchmarks.gpu.stopwatch import Stopwatch, Times
from rcp.backbones import backbone_for
from rcp.base_model.cost import kv_bytes, prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.training.estimate.planning import rows_by_layer
from tests.decoding import error

MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """``batches`` measured, ``repeats`` of each entrant and decode ``steps`` after each."""

    batches: tuple[int, ...] = (1, 8, 32)
    repeats: int = 5
    steps: int = 3


SMALL = Setting((1, 2), 1, 1)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}
"""Of a logit, between dropped and masked, relative to the largest one."""


@dataclass(frozen=True)
class Entrant:
    """A plug-in by name, or the model without one."""

    name: str
    plugin: rcp.Plugin | None

    def attached(self, model: Any) -> AbstractContextManager[Any]:
        return nullcontext() if self.plugin is None else rcp.attach(model, self.plugin)

    def rows(self, shape: Shape) -> list[int]:
        """Tokens of a sample in each layer: image, words, and the one that begins a prompt."""
        if self.plugin is None:
            return [shape.visual_tokens + TEXT + 1] * shape.layers
        return rows_by_layer(self.plugin, shape.visual_tokens, TEXT + 1, None).kept


def entrants_for(model: Any) -> list[Entrant]:
    """The full model first."""
    return [
        Entrant(name, None if spec is None else rcp.Plugin.for_model(spec, model).eval())
        for name, spec in specs().items()
    ]


def timed(
    watch: Stopwatch, entrants: list[Entrant], repeats: int
) -> tuple[dict[str, Times], float]:
    """Times of each entrant, and median milliseconds of the image encoder."""
    times = {entrant.name: Times() for entrant in entrants}
    encoding = []
    for repeat in range(repeats + 1):
        for entrant in entrants:
            with entrant.attached(watch.model):
                watch.time(times[entrant.name] if repeat else Times())
        encoding.append(watch.encode())
    return times, statistics.median(encoding[1:])


def measured(
    model: Any, shape: Shape, entrants: list[Entrant], batch: int, setting: Setting, device: str
) -> Iterator[dict[str, Any]]:
    """One row an entrant."""
    dtype = model.dtype
    watch = Stopwatch(model, prompts(shape, batch, device, dtype), device, setting.steps)
    times, encoding = timed(watch, entrants, setting.repeats)
    facts, full = decoder_sizes(backbone_for(model)), statistics.median(times[FULL].prefill)
    full_flops = prefill_flops(facts, entrants[0].rows(shape))
    for entrant in entrants:
        found, rows = times[entrant.name], entrant.rows(shape)
        prefill = statistics.median(found.prefill)
        predicted = full_flops / prefill_flops(facts, rows)
        row: dict[str, Any] = {
            "entrant": entrant.name,
            "batch": batch,
            "prefill ms": prefill,
            "speed-up": full / prefill,
            "predicted": predicted,
            "efficiency": (full - encoding) / (prefill - encoding) / predicted,
            "decode ms": statistics.median(found.decode),
            "KV MiB predicted": batch * sum(kv_bytes(facts, rows, dtype.itemsize)) / MIB,
            "KV MiB": found.cached / MIB,
            "peak MiB": None if found.peak is None else found.peak / MIB,
        }
        if batch == 1:
            row |= counts(watch, entrant, device)
        yield row


def counts(watch: Stopwatch, entrant: Entrant, device: str) -> dict[str, int]:
    """Operations of a prefill and of a decode step, and on CUDA what a prefill launches."""
    with entrant.attached(watch.model):
        cache = watch.prefill()
        found = {"prefill operations": operations(watch.prefill),
                 "decode operations": operations(lambda: watch.decode(cache))}
        return found | (launched(watch.prefill) if device == "cuda" else {})


@torch.no_grad()
def parity(model: Any, shape: Shape, plugin: rcp.Plugin, device: str) -> dict[str, float]:
    """Gone against masked by one plan: rounding may swap two tokens, and that is no error."""
    inputs = prompts(shape, 1, device, model.dtype)
    logits = {"full": model(**inputs, logits_to_keep=1).logits}
    with rcp.attach(model, plugin) as handle, handle.trace() as trace:
        logits["drop"] = model(**inputs, logits_to_keep=1).logits
    with rcp.attach(model, plugin, "soft", plan=trace.plan) as handle:
        with handle.prompt(inputs["input_ids"].shape[1]):
            logits["soft"] = model(**inputs, logits_to_keep=1, use_cache=False).logits
    full, drop, soft = (value.float() for value in logits.values())
    return {"parity": error(drop, soft), "effect": error(full, soft)}


def main() -> int:
    options = parsed("speed", __doc__)
    setting, shape = SMALL if options.tiny else Setting(), shape_for(options.tiny)
    dtype = torch.float32 if options.tiny else torch.bfloat16
    model, figures = random_model(shape, options.device, dtype), Figures(options.output)
    entrants = entrants_for(model)
    for batch in setting.batches:
        for row in measured(model, shape, entrants, batch, setting, options.device):
            figures.add(row)
        of_rcp = next(r for r in figures.rows if (r["entrant"], r["batch"]) == (RCP, batch))
        figures.add(**{f"{RCP}, batch {batch}": f"{of_rcp['speed-up']:.2f}x"})
    found = parity(model, shape, next(e.plugin for e in entrants if e.name == RCP), options.device)
    figures.add({"entrant": RCP, "batch": 1, **found}, **found)
    return int(not found["parity"] < TOLERANCE[dtype])


if __name__ == "__main__":
    sys.exit(main())
