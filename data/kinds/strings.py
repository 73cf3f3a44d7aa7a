"""Signs of two to five characters to read: an answer of as many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from data.drawing import draw_scene, draw_sign
from data.kinds.example import IMAGE, Example, Kind, same
from data.scenes import GRID, LETTERS, Scene, cell_of_patch, sample_scenes

LENGTHS = range(2, 6)


@dataclass(frozen=True)
class Sign:
    """Letters over ``cell`` and the one to its right, which the ``scene`` leaves empty."""

    scene: Scene
    cell: int
    letters: list[str]

    def drawn(self) -> np.ndarray:
        """(96, 96, 3) uint8"""
        return draw_sign(draw_scene(self.scene), self.cell, self.letters)


def signs(split: str, seed: int) -> Iterator[Sign]:
    """Of all LENGTHS by turns, without end."""
    rng = np.random.default_rng([seed, 10])
    for number, scene in enumerate(sample_scenes(split, seed)):
        free = [cell for cell in range(GRID * GRID) if _has_room(scene, cell)]
        cell = int(rng.choice(free))
        length = LENGTHS[number % len(LENGTHS)]
        letters = [LETTERS[n] for n in rng.integers(0, len(LETTERS), length)]
        yield Sign(_cleared(scene, cell), cell, letters)


def examples(split: str, seed: int) -> Iterator[Example]:
    """A sign in a scene whose objects make room for it."""
    for sign in signs(split, seed):
        turn = f"{IMAGE}what does the sign say?", " ".join(sign.letters)
        yield Example(f"sign of {len(sign.letters)}", (sign.drawn(),), (turn,))


def _has_room(scene: Scene, cell: int) -> bool:
    taken = cell_of_patch(scene.dot_patch)
    return cell % GRID < GRID - 1 and taken not in (cell, cell + 1)


def _cleared(scene: Scene, cell: int) -> Scene:
    shape = scene.shape.copy()
    shape[[cell, cell + 1]] = -1
    return replace(scene, shape=shape)


KIND = Kind("strings", examples, same)
