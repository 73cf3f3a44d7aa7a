"""Images small enough to lie in a page."""

import base64
import io
from pathlib import Path

from PIL import Image

from rcp.conversations.images import middle_square, opened

SIDE = 336
"""Pixels of the longer side, at most."""


def data_uri(path: Path, center_crop: bool = False) -> str | None:
    """The image at ``path`` as a WebP in a ``data:`` URI; None if it cannot be read.

    ``center_crop``: only its middle square, which is all that some processors let a model see.
    """
    try:
        image = opened(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if center_crop:
        image = middle_square(image)
    image.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    image.save(held, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"
