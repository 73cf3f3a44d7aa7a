"""Pictures of whatever kind as the models take them: RGB, upright, 8 bits a channel."""

from PIL import Image, ImageOps


def as_rgb(image: Image.Image) -> Image.Image:
    """``image`` as a viewer shows it; raises whatever Pillow does where its file is damaged."""
    upright = ImageOps.exif_transpose(image)  # cameras note in EXIF how they were held
    if upright.mode.startswith("I;16"):  # Pillow would cut all but the darkest off at white
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return upright.convert("RGB")
