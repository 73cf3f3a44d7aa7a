"""Ways to name one object of a scene, and what can be asked of it."""

from __future__ import annotations

import numpy as np

from data.scenes import COLOURS, GRID, LETTERS, SHAPES, Scene


def only(values: np.ndarray) -> dict[int, int]:
    """Values from 0 up that occur in exactly one cell, with that cell."""
    found, first, counts = np.unique(values, return_index=True, return_counts=True)
    return {int(value): int(cell) for value, cell, count in zip(found, first, counts)
            if value >= 0 and count == 1}


def named(scene: Scene) -> dict[str, int]:
    """Names that mean one object each, with its cell."""
    return {
        **{f"the {SHAPES[shape]}": cell for shape, cell in only(scene.shape).items()},
        **{f"the letter {LETTERS[letter]}": cell for letter, cell in only(scene.letter).items()},
        "the odd one out": scene.odd_cell,
        "the largest object": scene.largest_cell,
    }


def facts(scene: Scene, name: str, cell: int) -> dict[str, str]:
    """Questions about the object of this ``name``, with their answers."""
    found = {f"what colour is {name}?": COLOURS[scene.colour[cell]]}
    if name.removeprefix("the ") not in SHAPES:
        found[f"what shape is {name}?"] = SHAPES[scene.shape[cell]]
    if "letter" not in name and scene.letter[cell] >= 0:
        found[f"what letter is on {name}?"] = LETTERS[scene.letter[cell]]
    return found


def apart(one: int, other: int) -> bool:
    """Whether two cells neither are one nor touch."""
    steps = np.abs(np.array(divmod(one, GRID)) - np.array(divmod(other, GRID)))
    return bool(steps.max() > 1)
