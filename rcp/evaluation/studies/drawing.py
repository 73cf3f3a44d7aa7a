"""Pictures of what survives, with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcp.atomic_write import atomic
from rcp.evaluation.studies.survivors import Survivors

SHADE = 0.8
"""How dark a dropped token becomes."""


def draw(samples: Sequence[Survivors], path: Path) -> None:
    """A PNG: a row for each image of each sample, one column a stage; dropped tokens are dark.

    The file appears whole or not at all.
    """
    from matplotlib.figure import Figure

    rows = [(sample, number) for sample in samples for number in range(len(sample.images))]
    columns = 1 + max(len(sample.layers) for sample in samples)
    figure = Figure(figsize=(2.6 * columns, 3.1 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (sample, number) in zip(panels, rows):
        for axes in line:
            axes.axis("off")
        line[0].imshow(sample.images[number])
        line[0].set_title(_caption(sample), fontsize=7, loc="left", wrap=True)
        for stage, axes in enumerate(line[1 : 1 + len(sample.layers)]):
            axes.imshow(shaded(sample, number, stage))
            count = int((sample.alive[stage] & (sample.image_index == number)).sum())
            axes.set_title(f"from layer {sample.layers[stage]}: {count} tokens", fontsize=8)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def shaded(sample: Survivors, image: int, stage: int) -> Image.Image:
    """Image number ``image`` with everything dark that no survivor of ``stage`` covers."""
    picture = sample.images[image]
    here = (sample.image_index == image) & ~sample.grid.isnan().any(1)
    cells = _cells(sample.grid[here], picture.size)
    light = torch.full((picture.height, picture.width), 255 * (1 - SHADE))
    for top, left, bottom, right in cells[sample.alive[stage][here]].tolist():
        light[top:bottom, left:right] = 255
    mask = Image.fromarray(light.to(torch.uint8).numpy())
    return Image.composite(picture, Image.new("RGB", picture.size), mask)


def _cells(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) long: top, left, bottom, right of each token's cell in pixels.

    ``grid`` (N, 2) holds the centres; a cell is as large as the finest spacing of the image.
    """
    found: list[Any] = []
    for axis, pixels in ((0, size[1]), (1, size[0])):
        centre = (grid[:, axis] + 1) / 2 * pixels
        steps = centre.unique().diff()
        width = steps[steps > 0.5].min() if (steps > 0.5).any() else torch.tensor(float(pixels))
        found.append(((centre - width / 2).round(), (centre + width / 2).round()))
    (top, bottom), (left, right) = found
    return torch.stack([top, left, bottom, right], dim=1).long()


def _caption(sample: Survivors) -> str:
    return (
        f"{sample.question}\nanswer: {sample.answer}\nfull: {sample.full}\npruned: {sample.pruned}"
    )
