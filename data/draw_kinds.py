"""`python -m data.draw_kinds`: one example of each kind of question, as data/kinds.png."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from data.kinds import KINDS
from data.kinds.example import Example

PATH = Path(__file__).with_name("kinds.png")


def picture(example: Example) -> np.ndarray:
    """Its images side by side, with a white line between."""
    height = example.images[0].shape[0]
    line = np.full((height, 4, 3), 255, np.uint8)
    parts = [part for image in example.images for part in (image, line)][:-1]
    return np.concatenate(parts, axis=1)


def main() -> None:
    """Draw them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    for axes, kind in zip(figure.subplots(4, 2).flat, KINDS.values()):
        example = next(kind.examples("train", 1))
        axes.imshow(picture(example))
        axes.axis("off")
        text = " ".join(f"{asked} {answer}" for asked, answer in example.turns)
        title = f"{kind.name}: " + text.replace("<image>\n", "").replace("\n", " ")
        axes.set_title(textwrap.fill(title, 80), fontsize=7)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=75)
    Image.open(drawn).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(PATH)


if __name__ == "__main__":
    main()
