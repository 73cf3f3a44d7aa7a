"""Long answers: all objects of a scene in reading order, or how many of each colour there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from data.drawing import draw_scene
from data.kinds.example import IMAGE, Example, Kind
from data.scenes import COLOURS, SHAPES, Scene, sample_scenes

OBJECTS = range(6, 15)  # few enough to be named in 60 tokens


def examples(split: str, seed: int) -> Iterator[Example]:
    """A description and a tally in turn."""
    for number, scene in enumerate(sample_scenes(split, seed, OBJECTS)):
        if number % 2 == 0:
            type, turn = "description", description(scene)
        else:
            type, turn = "tally", counted(scene)
        yield Example(type, (draw_scene(scene),), (turn,))


def description(scene: Scene) -> tuple[str, str]:
    """What is asked for a description, and that."""
    return f"{IMAGE}describe the image.", described(scene)


def counted(scene: Scene) -> tuple[str, str]:
    """What is asked for a tally, and that."""
    return f"{IMAGE}how many objects of each colour are there?", tally(scene)


def described(scene: Scene) -> str:
    """Every object by colour and shape, row by row."""
    return ", ".join(f"a {COLOURS[scene.colour[cell]]} {SHAPES[scene.shape[cell]]}"
                     for cell in scene.occupied)


def tally(scene: Scene) -> str:
    """How many there are of each colour that occurs."""
    counts = Counter(scene.colour[scene.occupied].tolist())
    return ", ".join(f"{counts[n]} {colour}" for n, colour in enumerate(COLOURS) if counts[n])


def score(said: str, answer: str) -> float:
    """F1 of what is named, each as often as it is: 2 TP / (said + there)."""
    both, named, there = overlap(said, answer)
    return 2 * both / (named + there) if named + there else 1.0


def overlap(said: str, answer: str) -> tuple[int, int, int]:
    """How many things are in both, in what was said, and in the answer."""
    found, there = Counter(_things(said)), Counter(_things(answer))
    return (found & there).total(), found.total(), there.total()


def _things(text: str) -> list[str]:
    return [" ".join(re.findall(r"\w+", part)) for part in text.lower().split(",") if part.strip()]


KIND = Kind("captions", examples, score)
