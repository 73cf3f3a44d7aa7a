"""What each visual token shows: dense labels for pre-training a vision tower.

All four tokens of a cell carry the labels of the cell's object, so any one of them is enough
evidence; the dot alone is labelled on its single token. Value 0 always means "nothing".
"""

from __future__ import annotations

import numpy as np

from data.scenes import (
    CELL,
    COLOURS,
    DIRECTIONS,
    GRID,
    LETTERS,
    PATCH,
    SHAPES,
    SIZE_PIXELS,
    Scene,
    neighbour,
)

MOST = 5  # counts above it are labelled as it
DOT = len(SHAPES) + 1  # the shape label of the dot's token
PATCH_CLASSES = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 2, "letter": len(LETTERS) + 1,
                 "size": len(SIZE_PIXELS) + 1, "striped": 3, "odd": 2,
                 **{direction: len(SHAPES) + 1 for direction in DIRECTIONS}, "alike": MOST + 1}
IMAGE_CLASSES = {**{f"count {colour}": MOST + 1 for colour in COLOURS},
                 **{f"count {shape}": 3 for shape in SHAPES},
                 "dot cell": GRID * GRID, "odd cell": GRID * GRID, "largest cell": GRID * GRID}

_NEIGHBOURS = np.array([[-1 if neighbour(cell, direction) is None else neighbour(cell, direction)
                         for cell in range(GRID * GRID)] for direction in DIRECTIONS])
CELL_OF_PATCH = np.arange(GRID * GRID).reshape(GRID, GRID).repeat(
    CELL // PATCH, 0).repeat(CELL // PATCH, 1).ravel()


def patch_labels(scene: Scene) -> dict[str, np.ndarray]:
    """(144,) labels per name of PATCH_CLASSES; see below for two of them.

    A direction's label is the neighbour's shape; "alike" counts the objects of the same colour.
    """
    shape = scene.shape + 1
    cells = {"colour": scene.colour + 1, "shape": shape, "letter": scene.letter + 1,
             "size": scene.size + 1, "striped": np.where(shape > 0, scene.striped + 1, 0),
             "odd": (np.arange(GRID * GRID) == scene.odd_cell).astype(int)}
    for direction, cell in zip(DIRECTIONS, _NEIGHBOURS):
        cells[direction] = np.where((cell >= 0) & (shape > 0), shape[cell], 0)
    counts = np.bincount(scene.colour + 1, minlength=len(COLOURS) + 1)
    cells["alike"] = np.where(shape > 0, np.minimum(counts[scene.colour + 1], MOST), 0)
    labels = {name: values[CELL_OF_PATCH].copy() for name, values in cells.items()}
    labels["shape"][scene.dot_patch] = DOT
    labels["colour"][scene.dot_patch] = scene.dot_colour + 1
    return labels


def image_labels(scene: Scene) -> dict[str, int]:
    """One label per name of IMAGE_CLASSES, for the image-level loss on [CLS]."""
    colours = np.bincount(scene.colour[scene.occupied], minlength=len(COLOURS))
    shapes = np.bincount(scene.shape[scene.occupied], minlength=len(SHAPES))
    return {**{f"count {name}": int(n) for name, n in zip(COLOURS, np.minimum(colours, MOST))},
            **{f"count {name}": int(n) for name, n in zip(SHAPES, np.minimum(shapes, 2))},
            "dot cell": int(CELL_OF_PATCH[scene.dot_patch]), "odd cell": scene.odd_cell,
            "largest cell": scene.largest_cell}


def stack_labels(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 144, len(PATCH_CLASSES)) and (n, len(IMAGE_CLASSES)) labels, as named."""
    patches = [np.stack(list(patch_labels(s).values()), -1) for s in scenes]
    images = [list(image_labels(s).values()) for s in scenes]
    return np.stack(patches), np.array(images)
