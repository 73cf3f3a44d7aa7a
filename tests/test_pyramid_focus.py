"""The focus module: its loss by hand, that it learns, how it is kept, and what it refuses."""

import math

import pytest
import torch
from PIL import Image

from data.generate import generate
from rcp.__main__ import main
from rcp.base_model.loading import load_base
from rcp.conversations import LoadedSample, Sample
from rcp.conversations.source import open_conversations
from rcp.errors import UserError
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import OwnAttention, Scores, shares
from rcp.pyramid.distilling import distilled, focus_loss, tiles_by_level
from rcp.pyramid.focus import Focus, focus_module
from rcp.pyramid.walk import Budget

MIDDLE = 12
BASE = "data/tiny-vlm"


def scores(*tiles, missing=0):
    """Tiles of tokens without places, of the last tile the last ones ``missing``."""
    attention = torch.tensor(tiles)
    exists = torch.ones_like(attention, dtype=torch.bool)
    if missing:
        exists[-1, -missing:] = False
    return Scores(attention, torch.full((*attention.shape, 2), 0.5), exists)


def test_the_loss_of_one_level_is_the_divergence_over_all_its_tiles():
    student = scores([0.0, 0.0], [0.0, 0.0])
    teacher = scores([0.3, 0.1], [0.0, 0.4])  # shares of 0.8
    wanted = [0.375, 0.125, 0.5]
    divergence = sum(p * math.log(p / 0.25) for p in wanted)
    assert focus_loss([student], [teacher]).item() == pytest.approx(divergence, rel=1e-5)


def test_finer_levels_count_twice_and_by_their_squared_error():
    student, teacher = scores([0.0, 0.0, 7.0], missing=1), scores([0.3, 0.1, 9.0], missing=1)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    error = (0.5 - 0.75) ** 2 + (0.5 - 0.25) ** 2
    same = scores([0.2, 0.2])
    loss = focus_loss([scores([1.0, 1.0]), student], [same, teacher])
    assert loss.item() == pytest.approx(2 * divergence + error, rel=1e-5)
    exact = scores([math.log(0.3), math.log(0.1), 0.0], missing=1)
    assert focus_loss([exact, exact], [teacher, teacher]).item() == pytest.approx(0, abs=1e-6)


def test_of_a_large_level_some_tiles_are_seen():
    image = Image.new("RGB", (384, 384))
    counts = [len(tiles) for tiles in tiles_by_level(image, 96, Budget(across=1, most_tiles=5))]
    assert counts == [1, 4, 5]


@pytest.fixture(scope="module")
def embedded():
    return load_base(BASE, "float32")


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("mosaics"), "train", 3, kind="mosaics")


def taught(embedded, items):
    torch.manual_seed(0)
    return distilled(
        *embedded, items, len(items),
        layer=MIDDLE, side=96, budget=Budget(across=1), learning_rate=2e-3,
    )


def test_it_comes_nearer_to_the_models_attention_and_leaves_the_model(embedded, mosaics):
    dataset = open_conversations(str(mosaics), None)
    before = {name: value.clone() for name, value in embedded[0].state_dict().items()}
    item = dataset[0]
    tiles = list(tiles_by_level(item.images[0], 96, Budget(across=1)))[-1]
    asking = Asking(*embedded, "what colour is the dot?")
    teacher = OwnAttention(MIDDLE)(asking, tiles)

    def gap(plugin):
        expected = Focus(plugin)(asking, tiles).attention.flatten()
        assert expected.sum().item() == pytest.approx(1, abs=1e-4)
        return (expected - shares(teacher)).abs().sum().item()

    fresh, learned = taught(embedded, []), taught(embedded, [item] * 8)
    assert gap(learned) < 0.9 * gap(fresh)
    after = embedded[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.grad is None for value in embedded[0].parameters())


def test_a_question_without_an_image_is_passed_over(embedded):
    text = LoadedSample(Sample("a", (), "what?", "red", "x"), ())
    fresh, passed = taught(embedded, []), taught(embedded, [text])
    assert all(map(torch.equal, fresh.state_dict().values(), passed.state_dict().values()))


def test_another_plug_in_is_refused(embedded):
    other = Plugin.for_model(PluginSpec([StageSpec(2, 0.5, "fastv")]), embedded[0])
    with pytest.raises(UserError, match="python -m rcp focus"):
        Focus(other)


def test_it_is_kept_as_a_plug_in_and_asked_by_the_command(embedded, mosaics, tmp_path, capsys):
    folder = tmp_path / "focus"
    arguments = ["--base", BASE, "--data", str(mosaics), "--across", "1", "--device", "cpu"]
    assert main(["focus", *arguments, "--limit", "2", "--output", str(folder)]) == 0
    assert sorted(file.name for file in folder.iterdir())[-1] == "plugin.safetensors"
    assert load_plugin(folder).training_summary["focus"]["samples"] == 2
    assert main(["focus", *arguments, "--output", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    other = ["--output", str(tmp_path / "other"), "--learning-rate", "nan"]
    assert main(["focus", *arguments, *other]) == 2 and "is nan" in capsys.readouterr().err
    image = next((mosaics.parent / "images").iterdir())
    asked = ["--base", BASE, "--image", str(image), "--question", "what colour is the dot?"]
    assert main(["pyramid", *asked, "--across", "1", "--focus", str(folder)]) == 0
    assert "1 of 1 x 1 tiles, 144 tokens, 36 of them key tokens" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["pyramid", *asked, "--focus", str(folder), "--layer", "3"])


def test_a_fresh_one_fits_the_model(embedded):
    assert focus_module(embedded[0]).spec.stages[0].arguments["inner"] == 96
