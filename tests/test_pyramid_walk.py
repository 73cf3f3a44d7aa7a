"""The walk by a scorer whose attention is known, and the answers of real models."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from data.generate import generate
from rcp.__main__ import main
from rcp.base_model.answering import greedy_answers
from rcp.base_model.loading import load_base
from rcp.errors import UserError
from rcp.pyramid.answer import answer, input_side
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import OwnAttention, Scores
from rcp.pyramid.levels import Tile
from rcp.pyramid.walk import Budget, key_tokens, walk
from rcp.pyramid.windows import Whole
from tests.huge_images import tiled_pixels

SIDE = 8
GRID = [((column + 0.5) / 2, (row + 0.5) / 2) for row in range(2) for column in range(2)]
MIDDLE = 12  # of the embedded model's 24 layers


class BrightTokens:
    """Four tokens a tile, each attended to as its quarter is bright."""

    def __call__(self, asking, tiles):
        seen = torch.tensor(np.stack([np.asarray(tile.resize((2, 2))) for tile in tiles]))
        attention = seen[..., 0].flatten(1).float()
        places = torch.tensor(GRID).expand(len(tiles), -1, -1)
        return Scores(attention, places, torch.ones_like(attention, dtype=torch.bool))


def picture(*bright, side=32):
    """Black, and brighter from the first to the last of these pixels, given as x and y."""
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    for n, (x, y) in enumerate(reversed(bright)):
        pixels[y, x] = 255 - n
    return Whole(Image.fromarray(pixels))


def walked(image, **budget):
    return walk(image, None, BrightTokens(), SIDE, Budget(across=1, **budget))


def test_the_tiles_with_key_tokens_are_looked_at():
    """32 pixels, tiles of 8: grids of 1, 2 and 4; of 4, 4 and 4 tokens one, one and one is key."""
    looks = walked(picture((25, 9)))
    assert [(look.level.rows, look.tiles) for look in looks] == [
        (1, [Tile(0, 0)]), (2, [Tile(0, 1)]), (4, [Tile(1, 3)])
    ]
    assert [look.key.sum().item() for look in looks] == [1, 1, 1]
    # columns 24 to 32, rows 8 to 16; the pixel is in the upper left quarter of them
    assert looks[-1].points() == [((24 + 2) / 32, (8 + 2) / 32)]
    assert looks[-1].images[0].getpixel((1, 1)) == (255, 255, 255)


def test_two_things_lead_to_two_tiles_and_the_better_one_answers():
    looks = walked(picture((25, 9), (2, 30)), share=0.5)
    assert [len(look.tiles) for look in looks] == [1, 2, 4]
    assert {Tile(1, 3), Tile(3, 0)} <= set(looks[-1].tiles)
    best = looks[-1].best(1)
    assert [looks[-1].tiles[n] for n in best] == [Tile(3, 0)]
    assert [looks[-1].tiles[n] for n in looks[-1].best(2)] == [Tile(1, 3), Tile(3, 0)]


@pytest.mark.parametrize(("most", "levels"), [(1, 1), (3, 1), (4, 2), (15, 2), (16, 3)])
def test_a_level_beyond_the_budget_is_not_looked_at(most, levels):
    assert len(walked(picture((25, 9)), share=1.0, most_tiles=most)) == levels


def test_the_coarsest_level_is_looked_at_whatever_the_budget():
    (look,) = walk(picture((25, 9)), None, BrightTokens(), SIDE, Budget(across=4, most_tiles=1))
    assert len(look.tiles) == 16


def test_only_what_is_looked_at_is_read(tmp_path):
    from rcp.pyramid.windows import open_windows

    pixels = np.zeros((256, 256, 3), dtype=np.uint8)
    pixels[200:208, 200:208] = 255
    tiled_pixels(tmp_path / "x.tif", pixels, 16)
    with open_windows(tmp_path / "x.tif") as image:
        looks = walk(image, None, BrightTokens(), 64, Budget(across=1))
        # of 1, 4 and 16 tiles one each: the whole, a quarter, a sixteenth
        assert [len(look.tiles) for look in looks] == [1, 1, 1]
        assert image.pixels_read == 256**2 * (16 + 4 + 1) // 16


def test_key_tokens_by_hand():
    attention = torch.tensor([[0.5, 0.9, 0.1, 9.0], [0.7, 0.2, 0.3, 9.0]])
    places, exists = torch.full((2, 4, 2), 0.5), torch.ones(2, 4, dtype=torch.bool)
    places[0, 3], exists[1, 3] = torch.nan, False
    found = key_tokens(Scores(attention, places, exists), 0.5)  # of six
    assert found.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert key_tokens(Scores(attention, places, exists), 0.0).sum() == 1
    with pytest.raises(UserError, match="not known where"):
        key_tokens(Scores(attention, places * torch.nan, exists), 0.5)


@pytest.mark.parametrize("bad", [{"across": 0}, {"share": 1.5}, {"share": -1}, {"most_tiles": 0}])
def test_a_budget_that_cannot_be_is_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Budget(**bad)


@pytest.fixture(scope="module")
def embedded():
    return load_base("data/tiny-vlm", "float32")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene that fills one tile, with a question and its answer."""
    folder = tmp_path_factory.mktemp("scene")
    (row,) = json.loads(generate(folder, "test", 1, 0, 1, ("odd_one_out",)).read_text())
    question = row["conversations"][0]["value"].replace("<image>", "").strip()
    return folder / row["image"], question, row["conversations"][1]["value"]


def test_a_single_tile_with_all_its_tokens_is_the_plain_answer(embedded, scene):
    model, processor = embedded
    with Image.open(scene[0]) as picture, Whole(picture) as image:
        asking = Asking(model, processor, scene[1])
        plain = greedy_answers(model, processor, asking.inputs([[image.image]]), 8)[0]
        found = answer(
            model, processor, image, scene[1], OwnAttention(MIDDLE),
            side=96, budget=Budget(share=1.0), max_new_tokens=8,
        )
    assert found.text == plain == scene[2]
    assert (found.tokens_kept, found.tokens_encoded, found.pixels_encoded) == (144, 144, 96 * 96)


def test_attention_is_that_of_the_models_own_weights(embedded, scene):
    """Against the weights that transformers returns, and the same in any batch."""
    model, processor = embedded
    tiles = [Image.open(scene[0]).convert("RGB"), Image.new("RGB", (96, 96), "red")] * 5
    asking = Asking(model, processor, scene[1])
    scores = OwnAttention(MIDDLE)(asking, tiles)
    inputs = asking.inputs([[tiles[0]]])
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        weights = model(**inputs, output_attentions=True).attentions[MIDDLE][0, :, -1].mean(0)
    finally:
        model.set_attn_implementation(before)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    assert torch.allclose(scores.attention[0], weights[visual], atol=1e-5)
    assert torch.allclose(scores.attention[8], scores.attention[0], atol=1e-6)
    # x first: the second token lies to the right of the first
    assert torch.allclose(scores.places[0, :2], torch.tensor([[0.5, 0.5], [1.5, 0.5]]) / 12)


def test_several_tiles_answer_together(embedded, scene):
    model, processor = embedded
    wide = Image.new("RGB", (192, 96))
    wide.paste(Image.open(scene[0]).convert("RGB"), (96, 0))
    found = answer(
        model, processor, Whole(wide), scene[1], OwnAttention(MIDDLE), side=96, tiles=2,
        budget=Budget(share=0.5),
    )
    assert [look.level[2:] for look in found.looks] == [(1, 2)]
    assert found.tokens_kept == 144 and found.tokens_encoded == 288 and found.text


@pytest.mark.parametrize("layer", [-1, 23, 24])
def test_a_layer_that_cannot_be_read_is_refused(embedded, layer):
    with pytest.raises(UserError, match="of 0 to 22"):
        OwnAttention(layer)(Asking(*embedded, "what?"), [])


def test_a_question_with_a_place_for_an_image_is_refused(embedded):
    with pytest.raises(UserError, match="ask without it"):
        Asking(*embedded, "<image> what?")


def test_the_side_is_the_towers(embedded):
    assert input_side(embedded[0]) == 96


def test_the_command_answers(scene, capsys):
    arguments = ["--base", "data/tiny-vlm", "--image", str(scene[0]), "--question", scene[1]]
    assert main(["pyramid", *arguments, "--share", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "1 of 1 x 1 tiles, 144 tokens, 144 of them key tokens",
        "9216 pixels encoded, 9216 read; 144 of 144 tokens kept",
        scene[2],
    ]
    assert main(["pyramid", *arguments, "--share", "2"]) == 2
    assert main(["pyramid", *arguments, "--layer", "23"]) == 2
    assert main(["pyramid", *arguments, "--tiles", "0"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"share is 2.0", told) and "--tiles is 0" in told
