"""Scenes to pixels, many at a time: every cell is looked up in tables of antialiased masks."""

from __future__ import annotations

from functools import lru_cache
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw

from data.scenes import CELL, GRID, IMAGE_SIZE, LETTERS, PATCH, PATCHES, SHAPES, SIZE_PIXELS, Scene

RGB = np.array([(218, 32, 36), (247, 138, 20), (242, 228, 40), (36, 160, 52), (70, 215, 225),
                (36, 66, 214), (142, 46, 172), (246, 246, 246)], dtype=np.float32)
GLYPHS = {
    "C": "01110 10001 10000 10000 10000 10001 01110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
}
OVERSAMPLE = 8
PITCH = 6  # pixels from one letter of a sign to the next
SHADE = 0.5  # brightness of the dark bands of a striped object
BLACK_LETTER_ABOVE = 115.0  # mean brightness of a fill from which its letter is black


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corner points (x, y) of a polygonal shape in the unit square."""
    if shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.21, 0.52)
        return [(0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radii, angles)]
    return {
        "square": [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
        "triangle": [(0.5, 0.02), (1.0, 0.96), (0.0, 0.96)],
        "diamond": [(0.5, 0.0), (0.92, 0.5), (0.5, 1.0), (0.08, 0.5)],
        "cross": [(0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66),
                  (0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34)],
        "arrow": [(0, 0.32), (0.5, 0.32), (0.5, 0.02), (1, 0.5), (0.5, 0.98), (0.5, 0.68),
                  (0, 0.68)],
    }[shape]


def _mask(shape: str, pixels: int) -> np.ndarray:
    """(16, 16) coverage in [0, 1] of a centred shape."""
    side = CELL * OVERSAMPLE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    low, span = (CELL - pixels) / 2 * OVERSAMPLE, pixels * OVERSAMPLE

    def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
        return [low + x0 * span, low + y0 * span, low + x1 * span - 1, low + y1 * span - 1]

    if shape == "circle":
        draw.ellipse(box(0, 0, 1, 1), fill=255)
    elif shape == "ring":
        draw.ellipse(box(0, 0, 1, 1), fill=255)
        draw.ellipse(box(0.24, 0.24, 0.76, 0.76), fill=0)
    elif shape == "moon":
        draw.ellipse(box(0, 0, 1, 1), fill=255)
        draw.ellipse(box(0.36, -0.08, 1.2, 0.76), fill=0)
    elif shape == "heart":
        draw.ellipse(box(0, 0.05, 0.54, 0.59), fill=255)
        draw.ellipse(box(0.46, 0.05, 1, 0.59), fill=255)
        draw.polygon([(low + x * span, low + y * span)
                      for x, y in ((0.04, 0.45), (0.96, 0.45), (0.5, 1.0))], fill=255)
    else:
        draw.polygon([(low + x * span, low + y * span) for x, y in _outline(shape)], fill=255)
    small = image.resize((CELL, CELL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255.0


@lru_cache(maxsize=None)
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Masks (shape, size, 5, 5, 16, 16) by shift -2..2; glyphs (letter, 16, 16); bands; dot."""
    masks = np.zeros((len(SHAPES), len(SIZE_PIXELS), 5, 5, CELL, CELL), dtype=np.float32)
    for s, shape in enumerate(SHAPES):
        for z, pixels in enumerate(SIZE_PIXELS):
            centred = _mask(shape, pixels)
            for down in range(5):
                for right in range(5):
                    # Rolling is safe: a shift never exceeds the blank margin of its size.
                    masks[s, z, down, right] = np.roll(centred, (down - 2, right - 2), (0, 1))
    glyphs = np.zeros((len(LETTERS), CELL, CELL), dtype=np.float32)
    for index, letter in enumerate(LETTERS):
        rows = [[int(bit) for bit in row] for row in GLYPHS[letter].split()]
        glyphs[index, 5:12, 6:11] = rows
    y, x = np.mgrid[:CELL, :CELL]
    bands = np.where((x + y) // 2 % 2 == 1, SHADE, 1.0).astype(np.float32)
    side = np.hypot(*(np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2))
    dot = np.stack([side <= 3.8, side <= 2.6]).astype(np.float32)  # black rim, then fill
    return masks, glyphs, bands, dot


def _background(rng: np.random.Generator) -> np.ndarray:
    """(96, 96, 3) grey, unevenly lit, noisy, with faint streaks as clutter."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32) / IMAGE_SIZE
    level, tilt_y, tilt_x, wave = rng.uniform(size=4)
    grey = 95 + 55 * level + 30 * (tilt_y - 0.5) * y + 30 * (tilt_x - 0.5) * x
    grey = grey + 6 * np.sin((x * (6 + 20 * wave) + y * (4 + 20 * level)) * np.pi)
    for row, column, length, change in zip(rng.integers(0, IMAGE_SIZE, 12),
                                           rng.integers(0, IMAGE_SIZE, 12),
                                           rng.integers(4, 14, 12), rng.uniform(-32, 32, 12)):
        if length % 2:
            grey[row:row + 2, column:column + length] += change
        else:
            grey[row:row + length, column:column + 2] += change
    grey = grey + 8 * rng.standard_normal(grey.shape, dtype=np.float32)
    return grey[..., None] + 4 * rng.standard_normal((1, 1, 3)).astype(np.float32)


def draw_scene(scene: Scene) -> np.ndarray:
    """One scene as (96, 96, 3) uint8."""
    rng = np.random.default_rng(scene.noise_seed)
    masks, glyphs, bands, dot = _tables()
    canvas = _background(rng).astype(np.float32)
    cells = scene.occupied
    alpha = masks[scene.shape[cells], scene.size[cells],
                  scene.shift[cells, 0] + 2, scene.shift[cells, 1] + 2]  # (n, 16, 16)
    fill = RGB[scene.colour[cells]] + rng.uniform(-10, 10, (len(cells), 3)).astype(np.float32)
    shade = np.where(scene.striped[cells, None, None] == 1, bands, np.float32(1.0))
    paint = fill[:, None, None, :] * shade[..., None]  # (n, 16, 16, 3)
    lettered = scene.letter[cells] >= 0
    ink = np.where(fill.mean(-1) > BLACK_LETTER_ABOVE, 0.0, 255.0).astype(np.float32)
    glyph = glyphs[scene.letter[cells]] * lettered[:, None, None]
    paint = np.where(glyph[..., None] > 0, ink[:, None, None, None], paint)
    alpha = np.maximum(alpha, glyph)[..., None]
    tiles = canvas.reshape(GRID, CELL, GRID, CELL, 3)
    rows, columns = np.divmod(cells, GRID)
    tiles[rows, :, columns] = tiles[rows, :, columns] * (1 - alpha) + paint * alpha
    if scene.dot_colour >= 0:
        top, left = (part * PATCH for part in divmod(scene.dot_patch, PATCHES))
        window = canvas[top:top + PATCH, left:left + PATCH]
        window *= 1 - dot[0][..., None]
        window += dot[1][..., None] * RGB[scene.dot_colour]
    canvas += 5 * rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def box_of(scene: Scene, cell: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the object in ``cell``: of pixels that are half its own."""
    down, right = scene.shift[cell] + 2
    covered = _tables()[0][scene.shape[cell], scene.size[cell], down, right] >= 0.5
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    top, left = (CELL * part for part in divmod(cell, GRID))
    return (left + int(columns[0]), top + int(rows[0]),
            left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)


def draw_sign(image: np.ndarray, cell: int, letters: Sequence[str]) -> np.ndarray:
    """``image`` with up to five ``letters`` on a plate over ``cell`` and the one to its right."""
    height, width = 11, PITCH * len(letters) + 2
    plate = np.full((height, width, 3), 246, np.uint8)
    plate[[0, -1]] = plate[:, [0, -1]] = 0
    for place, letter in enumerate(letters):
        bits = np.array([[int(bit) for bit in row] for row in GLYPHS[letter].split()], bool)
        plate[2:9, 2 + PITCH * place:7 + PITCH * place][bits] = 0
    top, left = (CELL * part for part in divmod(cell, GRID))
    top, left = top + (CELL - height) // 2, left + (2 * CELL - width) // 2
    drawn = image.copy()
    drawn[top:top + height, left:left + width] = plate
    return drawn


def draw_scenes(scenes: Sequence[Scene]) -> np.ndarray:
    """Several scenes as (n, 96, 96, 3) uint8."""
    return np.stack([draw_scene(scene) for scene in scenes])
