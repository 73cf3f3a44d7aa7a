"""The quickstart on the device: its accuracy beside the CPU's, and what each step takes.

Both answer the same questions, so that a difference of more than three binomial errors is none of
chance.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS
from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.steps import run_script

QUESTIONS = {"train": ("train", 4000), "validation": ("val", 400), "test": ("test", 2000)}
"""Folder: split and number, as in the Makefile."""

LIMIT, FEW = 300, 8
"""Questions that are evaluated, and questions of all kinds in small."""

SMALL = ["--data.batch_size", "4", "--data.val_batch_size", "4", "--trainer.limit_val_batches", "1",
         "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]


def steps(folder: Path, tiny: bool) -> dict[str, list[str]]:
    """The commands of `make quickstart` by name, without ``python``, in ``folder``."""
    run, data = folder / "run", folder / "data"
    training = ["--config", "quickstart.yaml", "--run_folder", str(run)]
    training += ["--data.train", str(data / "train"), "--data.val", str(data / "validation")]
    training += ["--model.teacher_cache", str(folder / "cache")]
    training += ["--trainer.accelerator", "cpu" if tiny else "gpu", "--trainer.devices", "1"]
    return {
        **{
            name: ["-m", "data.generate", "--output", str(data / name), "--split", split,
                   "--n", str(FEW if tiny else count)]
            for name, (split, count) in QUESTIONS.items()
        },
        "training": ["train.py", *training, *(SMALL if tiny else [])],
        "export": ["export.py", "--checkpoint", str(run / "best.ckpt"),
                   "--output", str(run / "plugin")],
        "evaluation": ["evaluate.py", "--plugin", str(run / "plugin"), "--data",
                       str(data / "test"), "--limit", str(FEW if tiny else LIMIT),
                       *(["--no-controls"] if tiny else []), "--output", str(run / "rows.json")],
    }


def accuracies(rows: Path) -> dict[str, float]:
    """Accuracy in percent of the full model and of the plug-in, from a file of evaluate.py."""
    found = {row["method"]: 100 * row["accuracy"] for row in json.loads(rows.read_text())}
    return {name: found[name] for name in ("full", "rcp")}


def binomial_error(percent: float, questions: int) -> float:
    """Standard error of a share of ``questions``, in percentage points."""
    return math.sqrt(percent * (100 - percent) / questions)


def compared(here: dict[str, float], cpu: dict[str, float], questions: int) -> dict[str, Any]:
    """Main figures of accuracies on the device and on the CPU."""
    return {"full %": here["full"], "rcp %": here["rcp"], "on the CPU %": cpu["rcp"],
            "its error": binomial_error(cpu["rcp"], questions)}


def is_wrong(figures: dict[str, Any]) -> bool:
    """Whether chance does not explain the difference."""
    return abs(figures["rcp %"] - figures["on the CPU %"]) > 3 * figures["its error"]


def main() -> int:
    options = parsed("quickstart", __doc__)
    figures = Figures(options.output)
    for name, command in steps(options.output, options.tiny).items():
        began = time.monotonic()
        run_script(*command)
        figures.add({"step": name, "seconds": round(time.monotonic() - began, 1)})
    here = accuracies(options.output / "run" / "rows.json")
    cpu = accuracies(RESULTS / "quickstart.json")
    figures.add(**compared(here, cpu, LIMIT))
    return int(not options.tiny and is_wrong(figures.main))


if __name__ == "__main__":
    sys.exit(main())
