"""Levels and tiles of a pyramid, with values by hand."""

import pytest

from rcp.errors import UserError
from rcp.pyramid.levels import Box, Level, Tile, levels


@pytest.mark.parametrize(
    ("size", "side", "across", "grids"),
    [
        # 4000 -> 2000 -> 1000, about 1008
        ((4000, 4000), 336, 3, [(3, 3), (6, 6), (12, 12)]),
        # the short side counts: 2016 is halved once; 4032 wide is twice as many columns
        ((4032, 2016), 336, 3, [(3, 6), (6, 12)]),
        ((2016, 4032), 336, 3, [(6, 3), (12, 6)]),
        ((1008, 1008), 336, 3, [(3, 3)]),
        ((100, 100), 336, 3, [(1, 1)]),
        ((384, 384), 96, 1, [(1, 1), (2, 2), (4, 4)]),
        # log2(3) = 1.58 is nearer to 2, so that 288 becomes 72; 1.5 tiles become 2
        ((288, 288), 96, 1, [(1, 1), (2, 2), (3, 3)]),
        # 20000 / 1008 = 19.8 = 2 ** 4.31: four halvings, to 1250, or 3.7 tiles
        ((20000, 20000), 336, 3, [(4, 4), (7, 7), (15, 15), (30, 30), (60, 60)]),
        # a strip: its short side is never longer than a tile
        ((960, 5), 96, 1, [(1, 10)]),
        ((1, 1), 336, 3, [(1, 1)]),
    ],
)
def test_levels_by_hand(size, side, across, grids):
    found = levels(*size, side, across)
    assert [(level.rows, level.columns) for level in found] == grids
    assert all((level.width, level.height) == size for level in found)


@pytest.mark.parametrize("bad", [(0, 5, 96, 1), (5, -1, 96, 1), (5, 5, 0, 1), (5, 5, 96, 0)])
def test_sizes_below_one_are_refused(bad):
    with pytest.raises(UserError, match="at least 1"):
        levels(*bad)


def test_boxes_by_hand():
    level = Level(10, 7, 2, 3)
    assert [level.box(tile) for tile in level.tiles] == [
        Box(0, 0, 3, 3), Box(3, 0, 6, 3), Box(6, 0, 10, 3),
        Box(0, 3, 3, 7), Box(3, 3, 6, 7), Box(6, 3, 10, 7),
    ]


@pytest.mark.parametrize("level", [Level(10, 7, 2, 3), Level(97, 1000, 10, 1), Level(5, 5, 5, 5)])
def test_boxes_cover_each_pixel_once(level):
    boxes = [level.box(tile) for tile in level.tiles]
    pixels = [(x, y) for b in boxes for x in range(b[0], b[2]) for y in range(b[1], b[3])]
    assert len(pixels) == len(set(pixels)) == level.width * level.height


def test_points_fall_into_tiles():
    level = Level(400, 200, 2, 4)
    assert level.tile_at(0, 0) == Tile(0, 0)
    assert level.tile_at(0.5, 0.5) == Tile(1, 2)
    assert level.tile_at(0.49, 0.99) == Tile(1, 1)
    assert level.tile_at(1, 1) == Tile(1, 3)
    assert level.tiles_at([(0.9, 0.1), (0.1, 0.9), (0.95, 0.2)]) == [Tile(0, 3), Tile(1, 0)]
