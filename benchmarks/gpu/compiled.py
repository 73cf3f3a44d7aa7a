"""Prefill and decoding at 7B's shape, batch 1, with the decoder compiled beside eager.

What cannot be compiled is a row with the reason, and no failure of this part.
"""

import statistics
from typing import Any

import torch

from benchmarks.gpu.counting import launched
from benchmarks.gpu.entrants import FULL, RCP
from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.gpu.shape import prompts, random_model, shape_for
from benchmarks.gpu.speed import Entrant, entrants_for
from benchmarks.gpu.stopwatch import Stopwatch, Times, milliseconds
from rcp.backbones import backbone_for

COMPARED = (FULL, "uniform at 0", RCP)
REPEATS, WARM_UP = 5, 3
STEPS = 3


def repeated(watch: Stopwatch, repeats: int, warm_up: int) -> Times:
    """Times of ``repeats`` prefills, each with its decode steps, after ``warm_up`` more."""
    for _ in range(warm_up):
        watch.time(Times())
    times = Times()
    for _ in range(repeats):
        watch.time(times)
    return times


def compared(watch: Stopwatch, entrant: Entrant, tiny: bool) -> dict[str, Any]:
    """Eager, then compiled: an attached plug-in compiles anew."""
    repeats, warm_up = (1, 1) if tiny else (REPEATS, WARM_UP)
    decoder = backbone_for(watch.model).decoder
    row: dict[str, Any] = {"entrant": entrant.name}
    with entrant.attached(watch.model):
        row |= _medians("eager", repeated(watch, repeats, warm_up))
        eager = decoder.forward
        # without inductor on a CPU: it takes minutes, and shows nothing that matters here
        how = {"backend": "eager"} if tiny else {"mode": "reduce-overhead"}
        decoder.forward = torch.compile(eager, **how)
        try:
            row["first prefill s"] = milliseconds(watch.prefill, watch.device) / 1e3
            row |= _medians("compiled", repeated(watch, repeats, warm_up))
            row |= {} if tiny else launched(watch.prefill)
        except Exception as error:
            row["error"] = " ".join(str(error).split())[:200]
        finally:
            decoder.forward = eager
            torch.compiler.reset()
    return row


def _medians(how: str, times: Times) -> dict[str, float]:
    return {f"{how} prefill ms": statistics.median(times.prefill),
            f"{how} decode ms": statistics.median(times.decode)}


def main() -> None:
    options = parsed("compiled", __doc__)
    shape, dtype = shape_for(options.tiny), torch.float32 if options.tiny else torch.bfloat16
    model, figures = random_model(shape, options.device, dtype), Figures(options.output)
    watch = Stopwatch(model, prompts(shape, 1, options.device, dtype), options.device, STEPS)
    for entrant in entrants_for(model):
        if entrant.name in COMPARED:
            row = compared(watch, entrant, options.tiny)
            ratio = row["eager prefill ms"] / row.get("compiled prefill ms", float("nan"))
            figures.add(row, **{entrant.name: f"{ratio:.2f}x"})


if __name__ == "__main__":
    main()
