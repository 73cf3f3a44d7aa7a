"""An image as the model's processor resizes it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from data.scenes import IMAGE_SIZE


def shrunk(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (96, 96, 3) uint8, bicubic; an image of that size as it is."""
    if image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return image
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
