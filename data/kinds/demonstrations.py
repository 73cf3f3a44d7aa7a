"""A rule that only demonstrations tell: images with their answers, then an image without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from data.drawing import draw_scene
from data.even import Even
from data.kinds.example import Example, Kind, same
from data.scenes import COLOURS, SHAPES, Scene, sample_scenes

SHOWN = range(2, 5)  # demonstrations

RULES: dict[str, Callable[[Scene], str]] = {
    "colour of the largest": lambda scene: COLOURS[scene.colour[scene.largest_cell]],
    "colour of the odd one": lambda scene: COLOURS[scene.colour[scene.odd_cell]],
    "colour of the dot": lambda scene: COLOURS[scene.dot_colour],
    "shape of the largest": lambda scene: SHAPES[scene.shape[scene.largest_cell]],
    "shape of the odd one": lambda scene: SHAPES[scene.shape[scene.odd_cell]],
}


def examples(split: str, seed: int, numbers: range = SHOWN) -> Iterator[Example]:
    """The rules by turns, after each of these ``numbers`` of demonstrations by turns.

    No other rule gives all the answers shown, and none the answer that is asked for.
    """
    even = Even(np.random.default_rng([seed, 13]))
    scenes = sample_scenes(split, seed)
    made = 0
    while True:
        rule = list(RULES)[made % len(RULES)]
        shown = list(islice(scenes, numbers[made // len(RULES) % len(numbers)]))
        query = next(scenes)
        if _told(rule, shown) and all(RULES[rule](query) != RULES[o](query) for o in _others(rule)):
            type = f"{rule}, {len(shown)} shown"
            if even.choose(type, {RULES[rule](query): [None]}) is not None:
                made += 1
                yield _example(type, rule, shown, query)


def _others(rule: str) -> list[str]:
    return [other for other in RULES if other != rule]


def _told(rule: str, shown: list[Scene]) -> bool:
    answers = [RULES[rule](scene) for scene in shown]
    return all(answers != [RULES[other](scene) for scene in shown] for other in _others(rule))


def _example(type: str, rule: str, shown: list[Scene], query: Scene) -> Example:
    told = "".join(f"<image>\nthe answer is {RULES[rule](scene)}.\n" for scene in shown)
    images = tuple(draw_scene(scene) for scene in (*shown, query))
    return Example(type, images, ((f"{told}<image>\nwhat is the answer?", RULES[rule](query)),))


KIND = Kind("demonstrations", examples, same)
