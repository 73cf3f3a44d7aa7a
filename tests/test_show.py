"""`python -m rcp show`: the picture is of what the model really keeps."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import rcp
from rcp.__main__ import main
from rcp.base_model.loading import load_base
from rcp.conversations import ConversationDataset
from rcp.evaluation.studies.drawing import SHADE, shaded
from rcp.evaluation.studies.survivors import Survivors, survivors
from tests.tiny import RCP_ARGUMENTS, randomised
from tests.tiny_base import TOKENS, conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]


@pytest.fixture(scope="module")
def plugin_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, _ = load_base(str(base_folder), "float32")
    stages = [rcp.StageSpec(1, 0.5, "rcp", RCP_ARGUMENTS), rcp.StageSpec(2, 0.25, "uniform")]
    plugin = randomised(rcp.Plugin.for_model(rcp.PluginSpec(stages), model))
    folder = tmp_path_factory.mktemp("show") / "plugin"
    rcp.save_plugin(plugin, folder)
    return folder


def test_survivors_are_those_of_the_plan(
    base_folder: Path, plugin_folder: Path, conversations: Path
):
    model, processor = load_base(str(base_folder), "float32")
    plugin = rcp.load_plugin(plugin_folder)
    found = survivors(model, processor, plugin, ConversationDataset(conversations)[0], 3)
    assert found.alive.shape == (2, TOKENS) and found.alive.sum(1).tolist() == [8, 4]
    assert (found.alive[0] | ~found.alive[1]).all()  # nothing comes back
    assert found.layers == (1, 2) and found.answer == "dark"
    assert found.images[0].size == (20, 20)  # the processor crops the middle of 20 x 24


def test_exactly_the_survivors_stay_light():
    """A 4 x 4 grid on 8 x 8 pixels: each token is two pixels wide."""
    steps = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    grid = torch.cartesian_prod(steps, steps)
    alive = torch.zeros(1, 16, dtype=torch.bool)
    alive[0, [1, 14]] = True
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    sample = Survivors("a", "", "", "", "", (white,), (1,), alive, torch.zeros(16).long(), grid)
    picture = torch.frombuffer(bytearray(shaded(sample, 0, 0).tobytes()), dtype=torch.uint8)
    picture = picture.view(8, 8, 3)[..., 0]
    expected = torch.full((8, 8), 255 * (1 - SHADE))
    expected[0:2, 2:4] = expected[6:8, 4:6] = 255
    assert torch.allclose(picture.float(), expected, atol=1.5)


def test_the_command_draws_a_grid(
    plugin_folder: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ["--plugin", str(plugin_folder), "--data", str(conversations)]
    output = tmp_path / "new" / "out.png"
    assert main(["show", *given, "--samples", "2", "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.width > 3 * 200 and picture.height > 2 * 200
    assert [path.name for path in output.parent.iterdir()] == ["out.png"]
    said = capsys.readouterr().out
    assert "what is the red" in said and "how many" in said
    assert main(["show", *given, "--ids", "sample-5", "--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith("sample-5")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--ids", "sample-99"], "no sample 'sample-99'"),
        (["--samples", "0"], "--samples is 0"),
        (["--budget", "3"], "the one budget"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
    ],
)
def test_bad_requests_are_refused(
    more: list[str],
    named: str,
    plugin_folder: Path,
    conversations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    given = ["--plugin", str(plugin_folder), "--data", str(conversations)]
    output = tmp_path / "out.png"
    assert main(["show", *given, *more, "--output", str(output)]) == 2
    assert named in capsys.readouterr().err and not output.exists()


def test_text_alone_has_nothing_to_show(
    plugin_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    turns = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "two"}]
    path = write_conversations(
        tmp_path / "text.json", [conversation(0, image=None, conversations=turns)]
    )
    assert main(["show", "--plugin", str(plugin_folder), "--data", str(path)]) == 2
    assert "no image" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "diagnose"])
@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("images", "is a folder"),
        ("all.json/out", "Not a directory"),
        ("/proc/out", "nothing can be written in '/proc'"),
        ("x" * 300, "File name too long"),
        (".", "is a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    command: str,
    output: str,
    complaint: str,
    conversations: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(conversations.parent)
    before = sorted(conversations.parent.iterdir())
    assert main([command, "--plugin", "none", "--data", "none", "--output", output]) == 2
    assert complaint in capsys.readouterr().err
    assert sorted(conversations.parent.iterdir()) == before
