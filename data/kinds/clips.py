"""Four to eight frames of one scene: what moved and where to, what appeared, how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from data.drawing import draw_scene
from data.even import Even
from data.kinds.example import IMAGE, Example, Kind, same
from data.kinds.pointing import only
from data.scenes import DIRECTIONS, SHAPES, Scene, cell_of_patch, neighbour, sample_scenes

FRAMES = range(4, 9)
OBJECTS = range(16, 19)  # leaves room to move
TYPES = ("what moved", "where to", "what appeared", "how often")
WAYS = dict(zip(DIRECTIONS, ("left", "right", "up", "down")))
CELL_FACTS = ("shape", "colour", "size", "letter", "striped", "shift")


def examples(split: str, seed: int, lengths: range = FRAMES) -> Iterator[Example]:
    """The types by turns; what happens, happens between two frames that are drawn.

    Clips have as many frames as ``lengths`` says.
    """
    rng = np.random.default_rng([seed, 14])
    even = Even(rng)
    made = 0
    for scene in sample_scenes(split, seed, OBJECTS):
        frames = int(rng.integers(lengths.start, lengths.stop))
        type = TYPES[made % len(TYPES)]
        chosen = even.choose(type, _possible(type, scene, frames))
        if chosen is not None:
            made += 1
            answer, (asked, clip) = chosen[0], _played(type, scene, frames, chosen, rng)
            images = tuple(draw_scene(frame) for frame in clip)
            yield Example(type, images, ((IMAGE * frames + asked, answer),))


def _possible(type: str, scene: Scene, frames: int) -> dict[str, list[tuple[int, int]]]:
    """Answers, each with pairs of a shape and a direction, or of two numbers that say nothing."""
    if type == "how often":
        return {str(times): [(0, 0)] for times in range(1, (frames + 1) // 2 + 1)}
    found: dict[str, list[tuple[int, int]]] = {}
    for shape, cell in only(scene.shape).items():
        if type == "what appeared":
            found.setdefault(SHAPES[shape], []).append((shape, 0))
            continue
        for number, direction in enumerate(DIRECTIONS):
            to = neighbour(cell, direction)
            if to is not None and scene.shape[to] < 0 and to != cell_of_patch(scene.dot_patch):
                answer = SHAPES[shape] if type == "what moved" else WAYS[direction]
                found.setdefault(answer, []).append((shape, number))
    return found


def _played(
    type: str, scene: Scene, frames: int, chosen: tuple[str, tuple[int, int]],
    rng: np.random.Generator,
) -> tuple[str, list[Scene]]:
    """The question, and the scene of each frame."""
    if type == "how often":
        return "how often does the dot flash?", _flashes(scene, frames, int(chosen[0]), rng)
    shape, direction = chosen[1]
    cell, at = only(scene.shape)[shape], int(rng.integers(1, frames))
    if type == "what appeared":
        gone = scene.shape.copy()
        gone[cell] = -1
        before, after = replace(scene, shape=gone), scene
        return "what appears?", [before] * at + [after] * (frames - at)
    to = neighbour(cell, DIRECTIONS[direction])
    assert to is not None
    clip = [scene] * at + [_moved(scene, cell, to)] * (frames - at)
    asked = "what moves?" if type == "what moved" else f"where does the {SHAPES[shape]} move?"
    return asked, clip


def _moved(scene: Scene, cell: int, to: int) -> Scene:
    changed = {}
    for name in CELL_FACTS:
        values = getattr(scene, name).copy()
        values[[cell, to]] = values[[to, cell]]
        changed[name] = values
    odd = to if scene.odd_cell == cell else scene.odd_cell
    return replace(scene, **changed, odd_cell=odd)


def _flashes(scene: Scene, frames: int, times: int, rng: np.random.Generator) -> list[Scene]:
    """The dot is seen in so many frames, no two of them next to each other."""
    while True:
        lit = np.sort(rng.choice(frames, times, replace=False)).tolist()
        if all(later - earlier > 1 for earlier, later in pairwise(lit)):
            dark = replace(scene, dot_colour=-1)
            return [scene if frame in lit else dark for frame in range(frames)]


KIND = Kind("clips", examples, same)
