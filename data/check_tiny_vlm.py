"""Measure the embedded model on held-out questions and write benchmarks/results/tiny_vlm.json.

Four numbers decide whether it is worth pruning: accuracy by type, the score on a blank image (it
must fall to the answer prior), the prior itself, and the score with a random ninth of the visual
tokens (it must fall too, else which tokens are kept does not matter). `--by kind` measures a model
on every kind of questions, each with its own metrics (check_kinds.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import Counter, defaultdict
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from data.answering import answered
from data.check_kinds import check_kinds
from data.drawing import draw_scene
from data.generate import conversation
from data.questions import Question, QuestionSampler
from data.scenes import IMAGE_SIZE, sample_scenes

GREY = 128
PER_IMAGE = 4  # questions that share an image
LONGEST = 4  # tokens of an answer, of which one ends it
Sample = tuple[Image.Image, Question]


def held_out(split: str, seed: int, n: int) -> list[Sample]:
    """`n` (image, question) pairs of a split."""
    sampler, scenes = QuestionSampler(seed), sample_scenes(split, seed)
    samples: list[Sample] = []
    for scene in islice(scenes, n):
        image = Image.fromarray(draw_scene(scene))
        samples += [(image, question) for question in sampler.sample(scene, PER_IMAGE)]
        if len(samples) >= n:
            break
    return samples[:n]


def answers(model: LlavaForConditionalGeneration, processor: transformers.ProcessorMixin,
            samples: Sequence[Sample], keep: float | None = None, seed: int = 0) -> list[str]:
    """Generated answers; `keep` drops all but a random share of the visual tokens beforehand."""
    asked = [((image,), (conversation(question),)) for image, question in samples]
    return answered(model, processor, asked, LONGEST, keep, seed)


def accuracy(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, float]:
    """Exact-match accuracy in percent, in all and by question type."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for (_, question), answer in zip(samples, given):
        for name in ("all", question.type):
            hits[name].append(answer == question.answer)
    return {name: round(100 * float(np.mean(values)), 2) for name, values in sorted(hits.items())}


def prior(samples: Sequence[Sample]) -> float:
    """What the most frequent answer to each exact question form would score, in percent.

    A form is the question's type and the thing asked for; of a comparison and an existence
    question a guess between the two possible answers is counted.
    """
    forms: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    pairs = 0.0
    for _, question in samples:
        if question.type in ("comparison", "existence"):
            pairs += 0.5
        else:
            forms[question.type, question.text.split()[1]][question.answer] += 1
    best = pairs + sum(max(counts.values()) for counts in forms.values())
    return round(100 * best / len(samples), 2)


def measure(folder: Path, n: int, seed: int, split: str) -> dict[str, object]:
    """All numbers of one model folder, fp16 weights computed in fp32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    samples = held_out(split, seed, n)
    grey = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (GREY,) * 3)
    blank = [(grey, question) for _, question in samples]
    return {
        "full": accuracy(samples, answers(model, processor, samples)),
        "blank": accuracy(samples, answers(model, processor, blank)),
        "prior": prior(samples),
        "random_ninth": accuracy(samples, answers(model, processor, samples, 1 / 9, seed)),
        "n": n, "seed": seed, "split": split,
        "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 2),
        "decoder_layers": model.config.text_config.num_hidden_layers,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "python": platform.python_version()},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": " ".join(["python -m data.check_tiny_vlm", *sys.argv[1:]]),
    }


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m data.check_tiny_vlm", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("data/tiny-vlm"))
    parser.add_argument("--by", choices=("type", "kind"), default="type",
                        help="type: of questions on one scene; kind: every kind of data.generate")
    parser.add_argument("--output", type=Path,
                        help="default: tiny_vlm.json or world_model.json in benchmarks/results; "
                             "by kind, a table stands beside it, and what it has is not done again")
    parser.add_argument("--n", type=int, default=2000, help="number of questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    arguments = parser.parse_args()
    if arguments.n < 1:
        parser.error(f"--n is {arguments.n}: it must be 1 or more, e.g. --n 2000.")
    if not (arguments.model / "config.json").exists():
        parser.error(f"--model {arguments.model} holds no config.json: name a model folder, or "
                     "make one with `python -m data.build_tiny_vlm`.")
    results = Path("benchmarks/results")
    if arguments.by == "kind":
        check_kinds(arguments.model, arguments.output or results / "world_model.json",
                    arguments.n, arguments.seed, arguments.split)
        return
    output = arguments.output or results / "tiny_vlm.json"
    result = measure(arguments.model, arguments.n, arguments.seed, arguments.split)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".writing")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(temporary, output)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
