"""Controls that change the image, not the tokens: a blank one, and a smaller one."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from rcp.backbones import Backbone
from rcp.conversations import Batch, LoadedSample
from rcp.evaluation.contestants import BLANK_IMAGE, Contestant
from rcp.evaluation.preparation import Preparation


def blank_image(preparation: Preparation, processor: Any) -> Contestant:
    """The full model shown a plain image of the processor's mean colour.

    What it still answers correctly needs no eyes: the answer prior.
    """
    mean = getattr(processor.image_processor, "image_mean", None) or [0.5] * 3
    colour = tuple(round(255 * value) for value in mean)

    def prepare(samples: Sequence[LoadedSample]) -> Batch:
        return preparation([_recoloured(sample, colour) for sample in samples])

    return Contestant(BLANK_IMAGE, prepare=prepare)


def downsampled_input(tokens: int, backbone: Backbone, processor: Any) -> Contestant | None:
    """The image resized before the vision tower, so that it has ``tokens`` patches at most.

    The tower interpolates its position embeddings, as it does for any size it was not trained
    on; the grid is the largest that fits and is at most twice as wide as high. None where the
    tower takes sizes of its own choice or cannot interpolate.
    """
    patch = getattr(getattr(backbone.config, "vision_config", None), "patch_size", None)
    if backbone.visual_tokens is None or not isinstance(patch, int):
        return None
    rows, columns = patch_grid(tokens)
    small = copy.deepcopy(processor)
    size = {"height": rows * patch, "width": columns * patch}
    small.image_processor.size = small.image_processor.crop_size = size
    prepare = Preparation(backbone.model, small, interpolate_pos_encoding=True)
    return Contestant("downsampled_input", prepare=prepare)


def patch_grid(tokens: int) -> tuple[int, int]:
    """The (rows, columns) with most cells, ``tokens`` at most, rows <= columns <= 2 rows."""
    grids = [
        (rows, columns)
        for rows in range(1, tokens + 1)
        for columns in range(rows, 2 * rows + 1)
        if rows * columns <= tokens
    ]
    return max(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))


def _recoloured(sample: LoadedSample, colour: tuple[int, ...]) -> LoadedSample:
    images = tuple(Image.new("RGB", image.size, colour) for image in sample.images)
    return replace(sample, images=images)
