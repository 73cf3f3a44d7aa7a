"""Write scenes and questions as image files plus LLaVA-conversation JSON.

`python -m data.generate --output DIR --split train --n 2000` makes `DIR/train.json` and
`DIR/images/*.png`. Splits are disjoint by content, whatever the seeds. `--kind NAME` makes another
kind of questions: signs to read, boxes, captions, several images, clips, large scenes, dialogues.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image

from data.drawing import draw_scene
from data.kinds import KINDS
from data.kinds.example import Kind
from data.questions import QUESTION_TYPES, Question, QuestionSampler
from data.scenes import SPLITS, Scene, sample_scenes

SCENES = "scenes"  # the kind of questions that have one word for an answer, about one scene


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


@dataclass(frozen=True)
class Record:
    """A row to write, and of its images those that are not written yet, by file name."""

    type: str
    names: list[str]
    new: dict[str, np.ndarray]
    turns: tuple[tuple[str, str], ...]


def _of_scenes(split: str, seed: int, per_image: int, types: tuple[str, ...]) -> Iterator[Record]:
    drawn = -1
    for number, scene, question in asked(split, seed, per_image, types):
        name = f"images/{split}-{seed}-{number:06d}.png"
        new = {name: draw_scene(scene)} if number != drawn else {}
        drawn = number
        yield Record(question.type, [name], new, (conversation(question),))


def _of_kind(kind: Kind, split: str, seed: int) -> Iterator[Record]:
    for number, example in enumerate(kind.examples(split, seed)):
        names = [f"images/{split}-{seed}-{number:06d}-{n}.png" for n in range(len(example.images))]
        yield Record(example.type, names, dict(zip(names, example.images)), example.turns)


def generate(output: Path, split: str, n: int, seed: int = 0, per_image: int = 4,
             types: tuple[str, ...] = tuple(QUESTION_TYPES), kind: str = SCENES) -> Path:
    """Write `n` questions of one split; returns the JSON file inside `output`.

    `per_image` and `types` are of the kind "scenes". Everything is written to a temporary folder
    that is renamed at the end, so that an interrupted run leaves no `output` behind.
    """
    temporary = output.with_name(output.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    rows: list[dict[str, object]] = []
    records = _of_scenes(split, seed, per_image, types) if kind == SCENES else \
        _of_kind(KINDS[kind], split, seed)
    for record in islice(records, n):
        for name, image in record.new.items():
            Image.fromarray(image).save(temporary / name)
        said = [{"from": speaker, "value": text}
                for turn in record.turns for speaker, text in zip(("human", "gpt"), turn)]
        one, *others = record.names
        rows.append({
            "id": f"{split}-{seed}-{len(rows):06d}", "image": record.names if others else one,
            "conversations": said, "question_type": record.type})
    (temporary / f"{split}.json").write_text(json.dumps(rows, indent=1))
    os.rename(temporary, output)
    return output / f"{split}.json"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.generate", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="new folder to write")
    parser.add_argument("--split", default="train", help=f"one of {', '.join(SPLITS)}")
    parser.add_argument("--kind", default=SCENES,
                        help=f"one of {', '.join([SCENES, *KINDS])}; default: {SCENES}")
    parser.add_argument("--n", type=int, default=2000, help="number of questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-image", type=int, help="questions that share an image (4)")
    parser.add_argument("--types", nargs="+", metavar="TYPE",
                        help=f"of {', '.join(QUESTION_TYPES)}; default: all")
    arguments = parser.parse_args()
    for name in ("per_image", "types"):
        if arguments.kind != SCENES and getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is of the kind {SCENES}, not of "
                         f"{arguments.kind}: leave it out.")
    arguments.per_image = 4 if arguments.per_image is None else arguments.per_image
    arguments.types = arguments.types or list(QUESTION_TYPES)
    if arguments.kind not in (SCENES, *KINDS):
        parser.error(f"--kind is {arguments.kind!r}: it must be one of "
                     f"{', '.join([SCENES, *KINDS])}. Correct the name.")
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
                    arguments.per_image, tuple(arguments.types), arguments.kind)
    print(f"Wrote {arguments.n} questions to {path}")


if __name__ == "__main__":
    main()
