"""TIFF files whose pixels lie uncompressed, of which any rows can be read without the others."""

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from PIL import Image, TiffImagePlugin

from rcp.conversations.images import as_rgb
from rcp.errors import UserError
from rcp.pyramid.levels import Box
from rcp.pyramid.shrinking import Shrinking

UPRIGHT = 1
AT_ONCE = 2**20
"""Pixels that are decoded at once: 3 MiB in RGB, a few times that while they are added up."""

# what each pixel becomes without a look at all the others; of a palette or floats it could not
MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B")


class Segment(NamedTuple):
    """A tile or strip: the pixels of ``box`` in Pillow's raw mode ``mode``, ``row`` bytes a row."""

    box: Box
    offset: int
    mode: str
    row: int


class Segments:
    """The tiles or strips of an open TIFF ``image``, which this owns; read window by window.

    As :class:`rcp.pyramid.windows.Windows`. Raises ``UserError`` where the file ends too early.
    """

    def __init__(self, image: TiffImagePlugin.TiffImageFile, path: Path) -> None:
        self.size = image.size
        self.pixels_read = 0
        self._image, self._path = image, path
        self._file: BinaryIO = path.open("rb")
        self._length = os.fstat(self._file.fileno()).st_size
        self._segments = [_segment(tile, _bits(image) // 8) for tile in image.tile]

    def close(self) -> None:
        self._file.close()
        self._image.close()

    def __enter__(self) -> "Segments":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, box: Box, size: tuple[int, int]) -> Image.Image:
        shown = Shrinking(box, size)
        for segment in self._segments:
            its = segment.box
            first, last = max(its.left, box.left), min(its.right, box.right)
            if first >= last:
                continue
            rows = max(1, AT_ONCE // its.width)
            for start in range(max(its.top, box.top), min(its.bottom, box.bottom), rows):
                stop = min(start + rows, its.bottom, box.bottom)
                inside = self._rows(segment, start, stop).crop(
                    (first - its.left, 0, last - its.left, stop - start)
                )
                shown.add(as_rgb(inside), first, start)
        return shown.image

    def _rows(self, segment: Segment, start: int, stop: int) -> Image.Image:
        """The rows ``start`` to ``stop`` of the image, as far as ``segment`` is wide."""
        size = (segment.box.width, stop - start)
        offset = segment.offset + (start - segment.box.top) * segment.row
        data = self._at(offset, size[1] * segment.row)
        self.pixels_read += size[0] * size[1]
        return Image.frombytes(self._image.mode, size, data, "raw", segment.mode, segment.row, 1)

    def _at(self, offset: int, count: int) -> bytes:
        if offset + count > self._length:  # asked first: a false width would ask for gigabytes
            raise UserError(
                f"'{self._path}' ends at byte {self._length}, in the middle of its pixels. Get the "
                "file anew."
            )
        self._file.seek(offset)
        return self._file.read(count)


def is_segmented(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether :class:`Segments` can read ``image``: uncompressed, whole bytes, upright."""
    return (
        image.mode in MODES
        and image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 1
        and image.tag_v2.get(Image.ExifTags.Base.Orientation, UPRIGHT) == UPRIGHT
        and _bits(image) % 8 == 0
        and all(segment.codec_name == "raw" for segment in image.tile)
    )


def _segment(tile: tuple, pixel: int) -> Segment:
    """One of Pillow's tiles, of ``pixel`` bytes a pixel; it names a row's bytes where that is cut
    off by the image's edge, else 0."""
    _, extents, offset, arguments = tile
    box = Box(*cast(tuple[int, int, int, int], extents))
    mode, row, _ = cast(tuple[str, int, int], arguments)
    return Segment(box, offset, mode, row or box.width * pixel)


def _bits(image: TiffImagePlugin.TiffImageFile) -> int:
    """Of one pixel, all channels; some files name the bits of a channel once for all."""
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    channels = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return sum(bits) if len(bits) == channels else bits[0] * channels
