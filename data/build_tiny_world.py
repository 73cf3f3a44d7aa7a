"""Make data/tiny-world-vlm from data/tiny-vlm: `python -m data.build_tiny_world --steps N`.

Run it again to go on after a cut, or with more steps to train further. The folder of the model is
written at the end of every run; `--minutes 0` writes it from the last state alone.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from data.tiny_vlm_training.export import export_model
from data.tiny_vlm_training.memory import keep_freed_memory
from data.tiny_world_training.training import WorldTraining
from data.tiny_world_training.vocabulary import extend, make_world_processor

ANSWER_TOKENS = 64  # a description of 14 objects has 56


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m data.build_tiny_world", description=__doc__)
    parser.add_argument("--start", type=Path, default=Path("data/tiny-vlm"),
                        help="the model to begin with")
    parser.add_argument("--output", type=Path, default=Path("data/tiny-world-vlm"),
                        help="folder to write the model to; replaced when done")
    parser.add_argument("--state", type=Path, default=Path("runs/tiny_world"),
                        help="folder of the training's state, by which a run resumes")
    parser.add_argument("--steps", type=int, required=True,
                        help="in all, those of earlier runs included")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of this run, at most")
    parser.add_argument("--seed", type=int, default=0, help="of new words and questions")
    arguments = parser.parse_args()
    if not arguments.minutes >= 0:
        parser.error(f"--minutes is {arguments.minutes}: it must be 0 or more, e.g. --minutes 90.")
    if arguments.steps < 1:
        parser.error(f"--steps is {arguments.steps}: it must be 1 or more, e.g. --steps 2000.")
    keep_freed_memory()
    torch.set_num_threads(1)  # the sums of a step, and so the model, depend on it
    torch.set_flush_denormal(True)
    processor = make_world_processor()
    model = LlavaForConditionalGeneration.from_pretrained(arguments.start, dtype=torch.float32)
    extend(model, len(processor.tokenizer), arguments.seed)
    training = WorldTraining(model, processor.tokenizer, arguments.state, arguments.steps,
                             arguments.seed)
    training.run(arguments.steps, arguments.minutes)
    export_model(model, arguments.output, processor, ANSWER_TOKENS)


if __name__ == "__main__":
    main()
