"""A TIFF of any size with uncompressed tiles, whose file is small: many tiles lie in one place."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHORT, LONG = 3, 4
CHANNELS = 3


def write_tiled(
    path: Path, side: int, tile: int, content: Callable[[int, int], bytes], bits: int = 8
) -> None:
    """``side`` x ``side`` RGB pixels; ``content`` gives the bytes of the tile at a row and column.

    Equal contents are written once.
    """
    across = -(-side // tile)
    places: dict[bytes, int] = {}
    data = bytearray()
    offsets = []
    for row in range(across):
        for column in range(across):
            pixels = content(row, column)
            if pixels not in places:
                places[pixels] = 8 + len(data)
                data += pixels
            offsets.append(places[pixels])
    data += b"\0" * (len(data) % 2)
    arrays = 8 + len(data)
    sizes = [min(tile * tile * CHANNELS * bits // 8, 2**32 - 1)] * len(offsets)
    channel_bits = arrays + 8 * len(offsets)
    data += struct.pack(f"<{2 * len(offsets)}I{CHANNELS}HH", *offsets, *sizes, *[bits] * 3, 0)
    many = len(offsets) > 1
    entries = [
        (256, LONG, 1, side), (257, LONG, 1, side), (258, SHORT, CHANNELS, channel_bits),
        (259, SHORT, 1, 1), (262, SHORT, 1, 2), (277, SHORT, 1, CHANNELS),
        (322, LONG, 1, tile), (323, LONG, 1, tile),
        (324, LONG, len(offsets), arrays if many else offsets[0]),
        (325, LONG, len(offsets), arrays + 4 * len(offsets) if many else sizes[0]),
    ]
    directory = struct.pack("<H", len(entries))
    for entry in entries:
        directory += struct.pack("<HHII", *entry)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + bytes(data) + directory + struct.pack("<I", 0))


def tiled_pixels(path: Path, pixels: np.ndarray, tile: int) -> None:
    """A square image of ``pixels`` (S, S, 3) uint8 in tiles, those at its edges filled up."""
    side = len(pixels)
    missing = -side % tile
    padded = np.pad(pixels, ((0, missing), (0, missing), (0, 0)), constant_values=77)

    def content(row: int, column: int) -> bytes:
        rows, columns = (slice(n * tile, (n + 1) * tile) for n in (row, column))
        return padded[rows, columns].tobytes()

    write_tiled(path, side, tile, content)
