"""Time of a training step against its floor: `python -m benchmarks.step_time`.

The floor of a step is what no implementation can leave out: the teacher's forward and the
student's forward and backward, each measured bare (no loss of ours, no logging, no optimiser, the
teacher without any hook). Steps and floors take turns on the same batches, so that a change of the
machine's pace meets both; the median over steps of the ratio within a step is reported, with full
masking, with the margin, and with an online guide, whose teacher has a backward pass too and whose
pruners learn nothing from the student. Beside them stand the frozen model's own forward and
backward.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from benchmarks.environment import environment
from rcp.attaching.attach import attach
from rcp.choosing.relaxation import Relaxation
from rcp.training.data_module import ConversationDataModule
from rcp.training.estimate.planning import plugin_options
from rcp.training.guided import frozen
from rcp.training.objective import answer_logits
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.cli import read_configuration

WARM_UP = 2
LIMIT = 1.15
"""What a step may take, as a multiple of its floor."""


class Stopwatch(pl.Callback):
    """Times each step, and after it the floors on the same batch."""

    def __init__(self, margin: float | None, guided: bool) -> None:
        self.margin = margin
        self.guided = guided
        self.seconds: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        synchronise(module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, _: Any, batch: Any, __: int
    ) -> None:
        synchronise(module.device)
        step = time.perf_counter() - self._start
        parts = {
            "teacher": lambda: teacher_forward(module, batch),
            "student": lambda: student_forward_backward(module, batch, self.margin),
            "model": lambda: model_forward_backward(module, batch),
        }
        still = module.guided_layers if self.guided else ()
        with frozen(module.plugin, still):
            timed = {name: seconds(work, module.device) for name, work in parts.items()}
        self.seconds.append({"step": step, **timed})


def teacher_forward(module: Any, batch: Any) -> None:
    """The frozen model by itself."""
    with torch.no_grad():
        answer_logits(module.model, batch)


def student_forward_backward(module: Any, batch: Any, margin: float | None) -> None:
    """The model under the plug-in, with the cheapest loss there is."""
    with attach(module.model, module.plugin, "soft", relaxation=Relaxation(0.25, margin=margin)):
        logits, _ = answer_logits(module.model, batch)
    logits.float().square().mean().backward()
    module.plugin.zero_grad()


def model_forward_backward(module: Any, batch: Any) -> None:
    """The frozen model as it is, a gradient going through all of it."""
    embeddings = module.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda *call: call[2].requires_grad_())
    logits, _ = answer_logits(module.model, batch)
    logits.float().square().mean().backward()
    hook.remove()


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Wall-clock time of ``work``."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; a CPU is never ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    config: Path, margin: float | None, steps: int, guide: Literal["online"] | None = None
) -> dict[str, Any]:
    """Medians over ``steps`` steps after the warm-up."""
    values = read_configuration(["--config", str(config)])
    model, data = values.model, values.data
    torch.manual_seed(0)
    module = PluginTraining(
        model.base,
        plugin_options(values),
        guide,
        dtype=model.dtype,
        margin=margin,
        gradient_shares_every=0,
    )
    watch = Stopwatch(margin, guide is not None)
    trainer = pl.Trainer(
        max_steps=WARM_UP + steps, logger=False, enable_checkpointing=False, devices=1,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[watch],
    )
    trainer.fit(module, ConversationDataModule(data.train, data.val, None, data.batch_size))
    timed = watch.seconds[WARM_UP:]
    teacher = "teacher" if guide is None else "model"
    floors = [step[teacher] + step["student"] for step in timed]
    ratios = [step["step"] / floor for step, floor in zip(timed, floors)]
    return {
        "margin": margin,
        "guide": guide,
        "step_over_floor": round(statistics.median(ratios), 3),
        **{
            f"{name}_s": round(statistics.median(step[name] for step in timed), 4)
            for name in timed[0]
        },
        "steps": steps,
        "batch_size": data.batch_size,
    }


def main() -> None:
    """Measure, print, and write what was measured with the machine it was measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=Path("rcp_tiny.yaml"),
                        help="configuration whose steps are timed")
    parser.add_argument("--margins", type=float, nargs="*", default=[2.0],
                        help="margins measured beside full masking")
    parser.add_argument("--steps", type=int, default=20, help="after the warm-up")
    parser.add_argument("--output", type=Path, default=Path("runs/step_time.json"),
                        help="where the times go")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    cases = [(margin, None) for margin in (None, *options.margins)] + [(1.0, "online")]
    for margin, guide in cases:
        rows.append(measure(options.config, margin, options.steps, guide))
        print(json.dumps(rows[-1]), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    command = ["python", "-m", "benchmarks.step_time", *sys.argv[1:]]
    result = {"environment": environment(command), "limit": LIMIT, "rows": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
