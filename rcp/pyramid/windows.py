"""Windows of an image that may be too large for memory, shrunk as they are read."""

from pathlib import Path
from types import TracebackType
from typing import Protocol

from PIL import Image, TiffImagePlugin

from rcp.conversations.images import as_rgb
from rcp.errors import UserError
from rcp.pyramid.levels import Box
from rcp.pyramid.segments import Segments, is_segmented
from rcp.pyramid.shrinking import Shrinking
from rcp.quoting import plain

LARGEST_WHOLE = 2**26
"""Pixels of an image that is decoded as a whole: 192 MiB in RGB."""


class Windows(Protocol):
    """An image that is read window by window; close it, or use it as a context manager.

    ``size``: width and height in pixels. ``pixels_read``: how many have been decoded so far.
    """

    size: tuple[int, int]
    pixels_read: int

    def read(self, box: Box, size: tuple[int, int]) -> Image.Image:
        """The pixels of ``box`` in RGB, shrunk to at most ``size`` as ``Shrinking`` does."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> "Windows": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Whole:
    """An image in memory, of any format."""

    def __init__(self, image: Image.Image) -> None:
        self.image = as_rgb(image)
        self.size = self.image.size
        self.pixels_read = self.size[0] * self.size[1]

    def read(self, box: Box, size: tuple[int, int]) -> Image.Image:
        shown = Shrinking(box, size)
        shown.add(self.image.crop(box), box.left, box.top)
        return shown.image

    def close(self) -> None:
        self.image.close()

    def __enter__(self) -> "Whole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_windows(path: str | Path) -> Windows:
    """The image in the file ``path``, to be read window by window.

    A TIFF whose tiles or strips lie uncompressed in the file is never held whole, whatever its
    size. Of other files no part can be decoded alone: up to ``LARGEST_WHOLE`` pixels they are held
    whole. Raises ``UserError`` for a larger one, and for a file that is no image.
    """
    path = Path(path)
    try:
        segmented = _segmented(path)
        return segmented if segmented is not None else _whole(path)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be read as an image ({plain(error)}). Give a picture in a format "
            "that Pillow reads, such as TIFF, PNG or JPEG."
        ) from error


def _segmented(path: Path) -> Segments | None:
    """Made by its own class: what opens any image refuses the huge ones, unread."""
    try:
        image = TiffImagePlugin.TiffImageFile(path)
    except SyntaxError:
        return None  # no TIFF
    if is_segmented(image):
        return Segments(image, path)
    image.close()
    return None


def _whole(path: Path) -> Whole:
    with Image.open(path) as image:
        if image.width * image.height > LARGEST_WHOLE:
            raise _too_large(path)
        return Whole(image)


def _too_large(path: Path) -> UserError:
    return UserError(
        f"'{path}' has more than {LARGEST_WHOLE} pixels, and of such a file no part can be decoded "
        "without the rest. Convert it to a TIFF of uncompressed tiles, of which only those looked "
        "at are read: gdal_translate -co TILED=YES -co BIGTIFF=IF_SAFER."
    )
