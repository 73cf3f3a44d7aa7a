"""Write scenes and questions as image files plus LLaVA-conversation JSON.

`python -m data.generate --output DIR --split train --n 2000` makes `DIR/train.json` and
`DIR/images/*.png`. Splits are disjoint by content, whatever the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Iterator

from PIL import Image

from data.drawing import draw_scene
from data.questions import QUESTION_TYPES, Question, QuestionSampler
from data.scenes import SPLITS, Scene, sample_scenes


def asked(split: str, seed: int, per_image: int = 4, types: tuple[str, ...] = tuple(QUESTION_TYPES)
          ) -> Iterator[tuple[int, Scene, Question]]:
    """Questions without end, each with its scene and the number of that."""
    sampler = QuestionSampler(seed, {name: QUESTION_TYPES[name].weight for name in types})
    for number, scene in enumerate(sample_scenes(split, seed)):
        for question in sampler.sample(scene, per_image):
            yield number, scene, question


def conversation(question: Question) -> tuple[str, str]:
    """What the human says, with a place for the image, and the answer."""
    return f"<image>\n{question.text.replace(' ?', '?')}", question.answer


def generate(output: Path, split: str, n: int, seed: int = 0, per_image: int = 4,
             types: tuple[str, ...] = tuple(QUESTION_TYPES)) -> Path:
    """Write `n` questions of one split; returns the JSON file inside `output`.

    Everything is written to a temporary folder that is renamed at the end, so that an interrupted
    run leaves no `output` behind.
    """
    temporary = output.with_name(output.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    rows: list[dict[str, object]] = []
    drawn = -1
    for number, scene, question in islice(asked(split, seed, per_image, types), n):
        image = f"images/{split}-{seed}-{number:06d}.png"
        if number != drawn:
            Image.fromarray(draw_scene(scene)).save(temporary / image)
            drawn = number
        human, answer = conversation(question)
        rows.append({
            "id": f"{split}-{seed}-{len(rows):06d}", "image": image,
            "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": answer}],
            "question_type": question.type})
    (temporary / f"{split}.json").write_text(json.dumps(rows, indent=1))
    os.rename(temporary, output)
    return output / f"{split}.json"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.generate", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="new folder to write")
    parser.add_argument("--split", default="train", help=f"one of {', '.join(SPLITS)}")
    parser.add_argument("--n", type=int, default=2000, help="number of questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-image", type=int, default=4, help="questions that share an image")
    parser.add_argument("--types", nargs="+", default=list(QUESTION_TYPES), metavar="TYPE",
                        help=f"of {', '.join(QUESTION_TYPES)}; default: all")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.types) - set(QUESTION_TYPES))
    if arguments.split not in SPLITS:
        parser.error(f"--split is {arguments.split!r}: it must be one of {', '.join(SPLITS)}. "
                     "Splits never share a scene; choose the one you need.")
    if unknown:
        parser.error(f"--types has {', '.join(unknown)}: allowed are "
                     f"{', '.join(QUESTION_TYPES)}. Correct the name or leave --types out.")
    for name, value in (("--n", arguments.n), ("--per-image", arguments.per_image)):
        if value < 1:
            parser.error(f"{name} is {value}: it must be 1 or more, e.g. {name} 4.")
    if arguments.seed < 0:
        parser.error(f"--seed is {arguments.seed}: it must be 0 or more, e.g. --seed 0.")
    if arguments.output.exists():
        parser.error(f"--output {arguments.output} exists already: it must be a new folder. "
                     "Choose another name or remove it first.")
    return arguments


def main() -> None:
    """Command line entry."""
    arguments = _parse()
    path = generate(arguments.output, arguments.split, arguments.n, arguments.seed,
                    arguments.per_image, tuple(arguments.types))
    print(f"Wrote {arguments.n} questions to {path}")


if __name__ == "__main__":
    main()
