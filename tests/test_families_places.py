"""Places of tokens made by pixel shuffling: an impulse at a patch must come out where they say."""

import pytest
import torch

from rcp.backbones import backbone_for
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
