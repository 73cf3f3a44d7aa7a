"""Means of the pixels that fall together, added up from any parts of a window."""

import numpy as np
from PIL import Image

from rcp.pyramid.levels import Box


class Shrinking:
    """What ``box`` of an image shows in at most ``size`` pixels, width first, part by part.

    A pixel counts for each cell by the share of it that lies there, so that the parts may be cut
    anywhere. Where ``box`` is smaller than ``size`` its pixels stay as they are.
    """

    def __init__(self, box: Box, size: tuple[int, int]) -> None:
        self.box = box
        self.width, self.height = min(box.width, size[0]), min(box.height, size[1])
        self.total = np.zeros((self.height, self.width, 3), dtype=np.float32)

    def add(self, part: Image.Image, left: int, top: int) -> None:
        """``part`` in RGB lies in the box, with its upper left at these pixels of the image."""
        box = self.box
        rows, down = _shares(top - box.top, part.height, box.height, self.height)
        columns, across = _shares(left - box.left, part.width, box.width, self.width)
        lines = np.tensordot(down, np.asarray(part, dtype=np.float32), axes=1)
        self.total[rows, columns] += np.einsum("cw,rwk->rck", across, lines, optimize=True)

    @property
    def image(self) -> Image.Image:
        """All that was added, in RGB."""
        return Image.fromarray((self.total + 0.5).clip(0, 255).astype(np.uint8))


def _shares(start: int, count: int, length: int, cells: int) -> tuple[slice, np.ndarray]:
    """How ``count`` pixels from ``start`` of a line of ``length`` fall into its equal ``cells``.

    The cells they reach, and of each of these (rows) what share each pixel (columns) has in it.
    """
    reached = slice(start * cells // length, -(-(start + count) * cells // length))
    edges = np.arange(reached.start, reached.stop + 1) * length / cells
    pixels = np.arange(start, start + count)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return reached, (inside.clip(min=0) * cells / length).astype(np.float32)
