"""Places of tokens made by pixel shuffling: an impulse at a patch must come out where they say."""

import pytest
import torch

from rcp.backbones import backbone_for
from rcp.backbones.places import any_resolution, frames, unplaced
from rcp.choosing.tokens import build_token_map
from tests.decoding import family

SIDE = 8
"""Patches of one side of a tile; 2 x 2 of them make a token."""

SHUFFLES = {
    "idefics3": lambda model: lambda patches: model.base_model.connector.pixel_shuffle(patches, 2),
    "smolvlm": lambda model: lambda patches: model.base_model.connector.pixel_shuffle(patches, 2),
    "aya_vision": lambda model: model.base_model.multi_modal_projector.pixel_shuffle,
    "internvl": lambda model: lambda patches: model.base_model.pixel_shuffle(
        patches.unflatten(1, (SIDE, SIDE)), scale_factor=0.5
    ),
}


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("name", SHUFFLES)
def test_a_patch_comes_out_at_the_place_of_its_token(name, tiles):
    model = family(name).model
    backbone, side = backbone_for(model), SIDE // 2
    tokens = side * side
    # InternVL puts nothing between tiles, the others a marker
    tile = [True] * tokens + [False] * (name != "internvl")
    image = torch.tensor([[False, *tile * tiles, False]])
    valid = torch.ones_like(image)
    mapped = build_token_map(image, valid)
    places = backbone.places(image, torch.zeros(*image.shape, 4), None)
    if places is not None:
        mapped = mapped.placed(places.index, places.grid)
    for row, column in ((0, 0), (0, 5), (3, 1), (6, 7)):
        patches = torch.zeros(1, SIDE * SIDE, 4)
        patches[0, row * SIDE + column] = 1.0
        shuffled = SHUFFLES[name](model)(patches).reshape(tokens, -1)
        token = shuffled.abs().sum(1).argmax().item()
        at = torch.tensor([row // 2 + 0.5, column // 2 + 0.5]) / side * 2 - 1
        for number in range(tiles):
            assert torch.allclose(mapped.grid[0, number * tokens + token], at)


SQUARE = [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
"""Places of a raster of 2 x 2."""


def columns(*runs: int) -> torch.Tensor:
    """(1, T) visual columns in runs of these lengths, a word of text before each."""
    return torch.tensor([[column for run in runs for column in [False] + [True] * run]])


def test_a_frame_begins_with_a_token_without_place():
    image = columns(4, 10)
    places = frames(image, side=2)
    grid = places.grid[image]
    assert grid[:4].tolist() == SQUARE, "an image has no [CLS]"
    assert grid[[4, 9]].isnan().all()
    assert grid[5:9].tolist() == grid[10:].tolist() == SQUARE
    assert places.index[image].tolist() == [0] * 4 + [1] * 10


@pytest.mark.parametrize("newlines", [0, 1])
def test_a_video_is_told_from_an_image_by_its_length(newlines):
    """An image of 3 x 3 with its newline, and a video of two frames of 2 x 2."""
    image = columns(9 + 1, 8 + newlines)
    ends = torch.zeros_like(image)
    ends[0, 10] = True
    if newlines:
        ends[0, -1] = True
    grid = any_resolution(image, ends, side=3, frame_side=2).grid[image]
    assert grid[4].tolist() == [0.0, 0.0] and grid[9].isnan().all()
    assert grid[10:14].tolist() == grid[14:18].tolist() == SQUARE
    assert grid[18:].isnan().all()


def test_what_has_no_place_still_belongs_to_its_image():
    image = columns(2, 3)
    places = unplaced(image)
    assert places.grid.isnan().all()
    assert places.index[image].tolist() == [0, 0, 1, 1, 1]
