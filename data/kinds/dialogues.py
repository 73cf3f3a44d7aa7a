"""Two or three questions on one image, whose evidence lies in different places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.drawing import draw_scene
from data.kinds.example import IMAGE, Example, Kind, same
from data.kinds.pointing import apart, facts, named
from data.scenes import Scene, sample_scenes

TURNS = (2, 3)


def examples(split: str, seed: int) -> Iterator[Example]:
    """Of two and three turns by turns, one question an object."""
    rng = np.random.default_rng([seed, 16])
    for number, scene in enumerate(sample_scenes(split, seed)):
        turns = TURNS[number % len(TURNS)]
        cells: list[int] = []
        asked: list[tuple[str, str]] = []
        objects = list(named(scene).items())
        for place in rng.permutation(len(objects)):
            name, cell = objects[place]
            if len(asked) < turns and all(apart(cell, other) for other in cells):
                cells.append(cell)
                asked.append(_question(scene, name, cell, rng))
        if len(asked) == turns:
            (first, answer), *others = asked
            yield Example(f"dialogue of {turns}", (draw_scene(scene),),
                          ((IMAGE + first, answer), *others))


def _question(
    scene: Scene, name: str, cell: int, rng: np.random.Generator
) -> tuple[str, str]:
    questions = list(facts(scene, name, cell).items())
    return questions[int(rng.integers(len(questions)))]


KIND = Kind("dialogues", examples, same)
