"""The levels of an image's pyramid and their tiles, from sizes alone."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from rcp.errors import UserError


class Tile(NamedTuple):
    """Where a tile lies in its level, counted from the upper left."""

    row: int
    column: int


class Box(NamedTuple):
    """Pixels of the full image: the first two are in it, the last two beyond it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


class Level(NamedTuple):
    """The whole image of ``width`` x ``height`` pixels in a grid of ``rows`` x ``columns`` tiles.

    Every tile is shown to the tower at its input size, so that more tiles show more detail.
    """

    width: int
    height: int
    rows: int
    columns: int

    @property
    def tiles(self) -> list[Tile]:
        """All of them, row by row."""
        return [Tile(row, column) for row in range(self.rows) for column in range(self.columns)]

    def box(self, tile: Tile) -> Box:
        """The pixels that ``tile`` covers; the boxes of a level cover each pixel once."""
        left, right = ((tile.column + n) * self.width // self.columns for n in (0, 1))
        top, bottom = ((tile.row + n) * self.height // self.rows for n in (0, 1))
        return Box(left, top, right, bottom)

    def tile_at(self, x: float, y: float) -> Tile:
        """The tile that holds the point ``x``, ``y``, in [0, 1] of the image's width and height."""
        row, column = math.floor(y * self.rows), math.floor(x * self.columns)
        return Tile(min(row, self.rows - 1), min(column, self.columns - 1))

    def tiles_at(self, points: Iterable[tuple[float, float]]) -> list[Tile]:
        """The tiles that hold any of ``points``, each once, row by row."""
        return sorted({self.tile_at(x, y) for x, y in points})


def levels(width: int, height: int, side: int, across: int) -> list[Level]:
    """The pyramid of an image of ``width`` x ``height`` pixels, coarsest level first.

    ``side``: the tower's input, in pixels. The image is halved until its short side is about
    ``across`` tiles long: LRS-VQA halves until about 1008 pixels, three tiles of 336 [note].
    "About" is the nearest of the halvings by their ratio, and a level's grid is its size over
    ``side``, rounded, with boxes of equal sizes: no tile is a narrow rest that the tower would see
    stretched. An image smaller than ``across`` tiles has one level. [ours] Raises ``UserError`` for
    a size below 1.
    """
    for name, value in (("width", width), ("height", height), ("side", side), ("across", across)):
        if value < 1:
            raise UserError(f"A pyramid's {name} is {value}: give a whole number of at least 1.")
    halvings = max(0, _rounded(math.log2(min(width, height) / (across * side))))
    shrunk = [side * 2**n for n in range(halvings, -1, -1)]
    grids = [(_tiles(height, pixels), _tiles(width, pixels)) for pixels in shrunk]
    # one tile more or less is no level: two of equal grids would show the same pixels twice
    return [Level(width, height, rows, columns) for rows, columns in dict.fromkeys(grids)]


def _tiles(pixels: int, side: int) -> int:
    return min(pixels, max(1, _rounded(pixels / side)))


def _rounded(value: float) -> int:
    """To the nearest whole number, halves up: Python's own rounds 1.5 and 2.5 to the same."""
    return math.floor(value + 0.5)
