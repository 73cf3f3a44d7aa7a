"""The one place where images are opened: whatever their storage and mode, RGB as a viewer shows it.

========================  ====================================================================
stored with               becomes
========================  ====================================================================
1, L, RGB, YCbCr, HSV,    RGB by Pillow's own conversion; colour profiles are not applied
LAB, CMYK, P
transparency of any kind  composited on white: RGBA, LA, PA, their premultiplied forms, palettes
                          with alpha, and the one transparent colour of PNG and GIF
I;16 (any byte order)     its upper 8 bits: 0 to 65535 becomes 0 to 255
I                         likewise where all values are 0 to 65535, else its own range, stretched
F                         0 to 1, 0 to 255 or 0 to 65535, whichever is the first that holds all
                          values, else its own range; NaN is black
several frames            the first frame
EXIF orientation          turned upright
========================  ====================================================================
"""

import io

import numpy as np
from PIL import Image, ImageOps

from rcp.conversations.sample import ImageSource, Stored

WHITE = (255, 255, 255, 255)
BITS_8, BITS_16 = 255.0, 65535.0


def opened(source: ImageSource) -> Image.Image:
    """The image in RGB; raises whatever Pillow does where it is damaged, and ``OSError``."""
    assert not isinstance(source, Stored)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """The first frame of ``image`` in 8 bits a channel, upright, on white."""
    upright = ImageOps.exif_transpose(image)  # cameras note in EXIF how they were held
    if upright.mode.startswith(("I", "F")):
        return _grey(upright)
    if upright.has_transparency_data:
        painted = upright.convert("LA" if upright.mode == "La" else "RGBA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", painted.size, WHITE), painted).convert("RGB")
    return upright.convert("RGB")


def middle_square(image: Image.Image) -> Image.Image:
    """What a processor that crops to the centre lets a model see of ``image``."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _grey(image: Image.Image) -> Image.Image:
    """An image of one channel with more than 8 bits, which Pillow would cut off at white."""
    values = np.asarray(image, dtype=np.float64)
    clear = values == image.info.get("transparency")
    values = np.nan_to_num(values, nan=0.0, posinf=BITS_16, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and 0 <= low and high <= BITS_8:
        grey = values * (BITS_8 if high <= 1 else 1)
    elif 0 <= low and high <= BITS_16:
        grey = values / 256
    else:
        grey = (values - low) / (high - low or 1) * BITS_8
    pixels = np.where(clear, BITS_8, np.clip(grey, 0, BITS_8)).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")
