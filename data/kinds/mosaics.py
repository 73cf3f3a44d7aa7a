"""Large scenes: 2 x 2 to 4 x 4 scenes in one image, and a question about one small thing in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from data.drawing import draw_scene
from data.even import Even
from data.kinds.example import IMAGE, Example, Kind, same
from data.kinds.pointing import only
from data.scenes import COLOURS, LETTERS, SHAPES, Scene, sample_scenes

SIDES = range(2, 5)  # scenes a side
TYPES = ("dot", "letter", "shape")


def examples(split: str, seed: int) -> Iterator[Example]:
    """Types by turns; all but one scene lose the thing that is asked about."""
    rng = np.random.default_rng([seed, 15])
    even = Even(rng)
    scenes = sample_scenes(split, seed)
    made = 0
    while True:
        side, type = SIDES[made // len(TYPES) % len(SIDES)], TYPES[made % len(TYPES)]
        tiles = list(islice(scenes, side**2))
        place = int(rng.integers(len(tiles)))
        name = f"{type} in {side} x {side}"
        chosen = even.choose(name, _possible(type, tiles[place]))
        if chosen is not None:
            made += 1
            answer, (asked, value) = chosen
            alone = [tile if n == place else _without(type, value, tile)
                     for n, tile in enumerate(tiles)]
            yield Example(name, (mosaic(alone, side),), ((IMAGE + asked, answer),))


def mosaic(scenes: list[Scene], side: int) -> np.ndarray:
    """``side`` x ``side`` scenes, row by row, as one image."""
    drawn = [draw_scene(scene) for scene in scenes]
    rows = [np.concatenate(drawn[side * row:side * (row + 1)], axis=1) for row in range(side)]
    return np.concatenate(rows)


def _possible(type: str, scene: Scene) -> dict[str, list[tuple[str, int]]]:
    """Answers, each with questions and the letter or shape that only this scene may have."""
    if type == "dot":
        return {COLOURS[scene.dot_colour]: [("what colour is the dot?", -1)]}
    found: dict[str, list[tuple[str, int]]] = {}
    names = LETTERS if type == "letter" else SHAPES
    for value, cell in only(getattr(scene, type)).items():
        name = f"the letter {names[value]}" if type == "letter" else f"the {names[value]}"
        asked = (f"what colour is {name}?", value)
        found.setdefault(COLOURS[scene.colour[cell]], []).append(asked)
    return found


def _without(type: str, value: int, scene: Scene) -> Scene:
    if type == "dot":
        return replace(scene, dot_colour=-1)
    values = getattr(scene, type).copy()
    values[values == value] = -1
    return replace(scene, **{type: values})


KIND = Kind("mosaics", examples, same)
