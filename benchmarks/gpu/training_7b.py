"""Training at 7B's shape by each strategy: loss, speed and memory, to resuming and exporting.

Memory is what the allocator reserved and what came to be in use on the device, beside what `python
-m rcp estimate` said. All strategies train the same batch; each run goes on for two steps from its
last checkpoint, is exported, and generates with its tokens dropped.
"""

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import rcp
from benchmarks.gpu.base_7b import base_in
from benchmarks.gpu.device_usage import DeviceUsage
from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.gpu.recipe import ANSWER_TOKENS, BATCH, recipe, write_batch
from benchmarks.gpu.run_log import RunLog, read_log
from benchmarks.gpu.shape import TEXT
from benchmarks.variants import write_configuration
from rcp import __main__ as commands
from rcp.base_model.loading import load_base
from rcp.training.checkpoint import read_checkpoint
from rcp.training.run.strategies import refuse_deepspeed

STRATEGIES = ("ddp", "deepspeed_stage_2", "deepspeed_stage_3")
MORE = 2
"""Steps after the resumption."""

PATIENCE = 110
"""Seconds that one process may take: a strategy that hangs leaves time to the others."""

GIB = 2**30


def run(*arguments: str) -> None:
    """The interpreter on ``arguments``; raises for a failure, or no end in time."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], check=True, timeout=PATIENCE)


def planned(config: Path) -> float:
    """GiB of one GPU that `python -m rcp estimate` says."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        commands.main(["estimate", "--config", str(config), "--text-tokens", str(TEXT),
                       "--answer-tokens", str(ANSWER_TOKENS)])
    print(told.getvalue(), flush=True)
    found = re.search(r"Memory of one GPU.*?([\d.]+) GiB", told.getvalue())
    assert found is not None, "the plan says nothing of memory"
    return float(found[1])


def trained(config: Path, strategy: str, folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of one strategy, after the training and after its resumption."""
    common = ["train.py", "--config", str(config), "--run_folder", str(folder),
              "--trainer.strategy", strategy]
    plan = planned(config)
    with DeviceUsage() as usage:
        run(*common)
    log = read_log(folder)
    yield _figures(log, plan, usage.peak)
    run(*common, "--resume", "true", "--trainer.max_steps", str(len(log.losses) + MORE))
    yield {"resumed to step": read_checkpoint(folder / "last.ckpt")["global_step"]}


def _figures(log: RunLog, plan: float, used: int | None) -> dict[str, Any]:
    first, last = log.ends
    found = {"steps": len(log.losses), "first loss": first, "last loss": last,
             "samples/s": BATCH / log.seconds_per_step, "planned GiB": plan}
    if log.reserved is not None and used is not None:
        found |= {"reserved GiB": log.reserved / GIB, "device GiB": used / GIB,
                  "plan's error": plan / (used / GIB) - 1}
    return found


def exporting(folder: Path) -> subprocess.Popen[bytes]:
    """The export of a run, on the CPU while the next strategy has the device."""
    arguments = ["--checkpoint", str(folder / "last.ckpt"), "--output", str(folder / "plugin")]
    return subprocess.Popen([sys.executable, "export.py", *arguments])


@torch.inference_mode()
def generated(base: Path, plugins: dict[str, Path], device: str) -> Iterator[tuple[str, int]]:
    """Tokens that the base generates with each of ``plugins`` attached, by strategy."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    model, processor = load_base(str(base), dtype, device)
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    text = "USER: <image>\nwhat is the red ? ASSISTANT:"
    inputs = processor(images=image, text=text, return_tensors="pt").to(device, model.dtype)
    for name, folder in plugins.items():
        with rcp.attach(model, rcp.load_plugin(folder)):
            ids = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        yield name, ids.shape[1] - inputs["input_ids"].shape[1]


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a strategy that this machine has failed, or taught nothing."""
    done = ("samples/s", "resumed to step", "exported", "generated")
    return "skipped" not in row and not (
        all(name in row for name in done)
        and row["last loss"] < row["first loss"]
        and row["resumed to step"] == row["steps"] + MORE
    )


def measure(base: Path, options: Any, figures: Figures) -> None:
    """One row a strategy, filled in as it comes to be known."""
    data = write_batch(options.output / "data")
    exports: dict[str, subprocess.Popen[bytes]] = {}
    for strategy in STRATEGIES:
        row: dict[str, Any] = {"strategy": strategy}
        folder = options.output / strategy
        config = recipe(base, data, options.device)
        config["trainer"]["strategy"] = strategy
        written = write_configuration(config, options.output / f"{strategy}.yaml")
        try:
            refuse_deepspeed(strategy, config["trainer"]["accelerator"])
            for known in trained(written, strategy, folder):
                row |= known
            exports[strategy] = exporting(folder)
        except rcp.UserError as refusal:
            row["skipped"] = str(refusal)
        except (subprocess.SubprocessError, OSError) as error:
            row["error"] = str(error)[:200]
        figures.add(row, **{strategy: _main(row)})
    rows = {row["strategy"]: row for row in figures.rows}
    for strategy, process in exports.items():
        rows[strategy]["exported"] = process.wait() == 0
    plugins = {name: options.output / name / "plugin" for name in exports
               if rows[name]["exported"]}
    for name, tokens in generated(base, plugins, options.device):
        rows[name]["generated"] = tokens
    figures.add()


def _main(row: dict[str, Any]) -> str:
    if "samples/s" not in row:
        return "skipped" if "skipped" in row else "failed"
    told = f"loss {row['first loss']:.3g} to {row['last loss']:.3g}, {row['samples/s']:.3g}/s"
    if "device GiB" in row:
        told += f", {row['device GiB']:.1f} GiB, planned {row['planned GiB']:.1f}"
    return told


def main() -> int:
    options = parsed("training_7b", __doc__)
    figures = Figures(options.output)
    measure(base_in(options.scratch, options.tiny), options, figures)
    return int(any(map(is_wrong, figures.rows)))


if __name__ == "__main__":
    sys.exit(main())
