"""Signs of two to five characters to read: an answer of as many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data.drawing import draw_scene, draw_sign
from data.kinds.example import IMAGE, Example, Kind, same
from data.scenes import GRID, LETTERS, Scene, cell_of_patch, sample_scenes

LENGTHS = range(2, 6)


def examples(split: str, seed: int) -> Iterator[Example]:
    """A sign over two cells of a scene, whose objects make room for it."""
    rng = np.random.default_rng([seed, 10])
    for number, scene in enumerate(sample_scenes(split, seed)):
        free = [cell for cell in range(GRID * GRID) if _has_room(scene, cell)]
        cell = int(rng.choice(free))
        length = LENGTHS[number % len(LENGTHS)]
        letters = [LETTERS[n] for n in rng.integers(0, len(LETTERS), length)]
        image = draw_sign(draw_scene(_cleared(scene, cell)), cell, letters)
        turn = f"{IMAGE}what does the sign say?", " ".join(letters)
        yield Example(f"sign of {length}", (image,), (turn,))


def _has_room(scene: Scene, cell: int) -> bool:
    taken = cell_of_patch(scene.dot_patch)
    return cell % GRID < GRID - 1 and taken not in (cell, cell + 1)


def _cleared(scene: Scene, cell: int) -> Scene:
    shape = scene.shape.copy()
    shape[[cell, cell + 1]] = -1
    return replace(scene, shape=shape)


KIND = Kind("strings", examples, same)
