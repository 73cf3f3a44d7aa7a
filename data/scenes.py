"""What is in a scene: random, seeded descriptions of 6 x 6 cells of 16 pixels.

A scene is kept as flat arrays over its 36 cells (row-major), because rendering and per-patch
labels are then plain indexing. Index -1 means "nothing": an empty cell, an object without letter.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Iterator

import numpy as np

GRID = 6  # cells a side
CELL = 16  # pixels a cell side
PATCH = 8  # pixels a visual token side
IMAGE_SIZE = GRID * CELL  # 96 pixels
PATCHES = IMAGE_SIZE // PATCH  # 12 visual tokens a side, 144 in all

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart", "moon",
          "arrow")
LETTERS = ("C", "E", "H", "K", "L", "T", "X", "Z")
SMALL, MEDIUM, LARGE = range(3)
SIZE_PIXELS = (10, 13, 16)
DIRECTIONS = ("left", "right", "above", "below")

SPLITS = {"train": range(2, 10), "val": range(1, 2), "test": range(0, 1)}
SINGLE_SHAPES = 4  # shapes that occur exactly once, so that "the star" has one meaning
OBJECTS = range(20, 25)  # how many a scene may have


@dataclass(frozen=True)
class Scene:
    """One scene; every array has shape (36,), int."""

    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    letter: np.ndarray
    striped: np.ndarray  # 0 or 1: the fill style
    shift: np.ndarray  # (36, 2) pixels, (down, right)
    odd_cell: int  # the one object whose fill style differs from all others
    dot_patch: int  # index among the 144 patches; always inside an empty cell
    dot_colour: int  # -1: there is no dot
    noise_seed: int  # seeds background, clutter and colour jitter

    @property
    def occupied(self) -> np.ndarray:
        """Cells that hold an object, ascending."""
        return np.flatnonzero(self.shape >= 0)

    @property
    def largest_cell(self) -> int:
        """The one cell whose object is large."""
        return int(np.flatnonzero(self.size == LARGE)[0])


def neighbour(cell: int, direction: str) -> int | None:
    """The cell next to `cell` in `direction`, or None beyond the edge."""
    row, column = divmod(cell, GRID)
    row += {"above": -1, "below": 1}.get(direction, 0)
    column += {"left": -1, "right": 1}.get(direction, 0)
    inside = 0 <= row < GRID and 0 <= column < GRID
    return row * GRID + column if inside else None


def cell_of_patch(patch: int) -> int:
    """The cell that contains visual token `patch`."""
    row, column = divmod(patch, PATCHES)
    per_cell = CELL // PATCH
    return (row // per_cell) * GRID + column // per_cell


def split_of(scene: Scene) -> str:
    """The split a scene belongs to, by a hash of its content.

    Two equal scenes always land in the same split, so that splits cannot overlap whatever the
    seeds. Noise and shifts are left out of the hash: a redrawn scene is the same scene.
    """
    content = np.concatenate([scene.shape, scene.colour, scene.size, scene.letter]).astype(np.int8)
    bucket = zlib.crc32(content.tobytes()) % 10
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def _sample_shapes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) shape indices in which exactly SINGLE_SHAPES shapes occur once."""
    order = rng.permutation(len(SHAPES))
    singles, others = order[:SINGLE_SHAPES], order[SINGLE_SHAPES:]
    # Each of the others twice first, so that none of them is accidentally single as well.
    rest = np.concatenate([others, others])
    rest = np.concatenate([rest, rng.choice(others, max(0, count - SINGLE_SHAPES - len(rest)))])
    shapes = np.concatenate([singles, rest])[:count]
    return rng.permutation(shapes)


def _sample_scene(rng: np.random.Generator, objects: range) -> Scene:
    cells = GRID * GRID
    count = int(rng.integers(objects.start, objects.stop))
    places = rng.permutation(cells)
    filled, empty = places[:count], places[count:]
    arrays = {name: np.full(cells, -1) for name in ("shape", "colour", "size", "letter")}
    arrays["shape"][filled] = _sample_shapes(rng, count)
    # Uneven colour weights, so that counts spread from none to many in one scene.
    weights = rng.dirichlet([0.9] * len(COLOURS))
    arrays["colour"][filled] = rng.choice(len(COLOURS), count, p=weights)
    arrays["size"][filled] = rng.choice([SMALL, MEDIUM], count, p=[0.35, 0.65])
    arrays["size"][filled[0]] = LARGE
    arrays["letter"][filled] = rng.integers(0, len(LETTERS), count)
    unlettered = (rng.random(cells) < 0.3) | (arrays["size"] == SMALL)
    arrays["letter"][unlettered] = -1
    striped = np.full(cells, int(rng.integers(2)))
    odd_cell = int(rng.choice(filled[arrays["size"][filled] != SMALL]))
    striped[odd_cell] = 1 - striped[odd_cell]
    room = np.array([(CELL - pixels) // 2 for pixels in SIZE_PIXELS])[arrays["size"]]
    shift = np.rint(rng.uniform(-1, 1, (cells, 2)) * np.minimum(room, 2)[:, None]).astype(int)
    corner = rng.integers(0, CELL // PATCH, 2)
    dot_row, dot_column = np.array(divmod(int(empty[0]), GRID)) * (CELL // PATCH) + corner
    return Scene(**arrays, striped=striped, shift=shift, odd_cell=odd_cell,
                 dot_patch=int(dot_row * PATCHES + dot_column),
                 dot_colour=int(rng.integers(len(COLOURS))),
                 noise_seed=int(rng.integers(2**31)))


def sample_scenes(split: str, seed: int, objects: range = OBJECTS) -> Iterator[Scene]:
    """An endless, reproducible stream of scenes of one split, with so many ``objects`` each."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    rng = np.random.default_rng([seed, list(SPLITS).index(split)])
    while True:
        scene = _sample_scene(rng, objects)
        if split_of(scene) == split:
            yield scene
