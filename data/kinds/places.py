"""Where an object is: a box in the form in which LLaVA-1.5 writes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.drawing import box_of, draw_scene
from data.even import Even
from data.kinds.example import IMAGE, Example, Kind
from data.kinds.pointing import named
from data.scenes import IMAGE_SIZE, sample_scenes


def examples(split: str, seed: int) -> Iterator[Example]:
    """One object of each scene, in each cell as often as in another."""
    even = Even(np.random.default_rng([seed, 11]))
    for scene in sample_scenes(split, seed):
        cells: dict[str, list[str]] = {}
        for name, cell in named(scene).items():
            cells.setdefault(str(cell), []).append(name)
        chosen = even.choose("place", cells)
        if chosen is not None:
            cell, name = int(chosen[0]), chosen[1]
            turn = f"{IMAGE}where is {name}?", written(box_of(scene, cell))
            yield Example("place", (draw_scene(scene),), (turn,))


def written(box: tuple[int, int, int, int]) -> str:
    """Edges in pixels as shares of the side."""
    return f"[{', '.join(f'{edge / IMAGE_SIZE:.2f}' for edge in box)}]"


def score(said: str, answer: str) -> float:
    """1.0 where the boxes overlap with an IoU of one half or more."""
    from rcp.evaluation.metrics import grounding  # brings torch, which takes seconds to load

    box, truth = grounding.box_of(said), grounding.box_of(answer)
    assert truth is not None
    return float(box is not None and grounding.iou(box, truth) >= grounding.THRESHOLD)


KIND = Kind("places", examples, score)
