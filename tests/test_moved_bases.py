"""A base that is no longer where it was in training: every command says what to do, and does it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
import export
import rcp
import train
from rcp.__main__ import main as command
from tests.cli import assert_one_paragraph, settings
from tests.tiny_base import conversation, make_model, make_processor, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def trained(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its plug-in, the data, and the base as ``moved``, not as ``base``."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(base_folder, folder / "base")
    data = write_conversations(folder / "data" / "all.json", [conversation(n) for n in range(8)])
    values = settings(folder / "base", data, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(folder / "config.yaml")]) == 0
    checkpoint = ["--checkpoint", str(folder / "run" / "last.ckpt")]
    assert export.main([*checkpoint, "--output", str(folder / "plugin")]) == 0
    (folder / "base").rename(folder / "moved")
    return folder


def another(folder: Path) -> Path:
    """A base of the same sizes with another projector."""
    model = make_model()
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_1.weight)
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


def test_a_checkpoint_is_exported_with_the_base_where_it_is_now(trained, tmp_path, capsys):
    line = ["--checkpoint", str(trained / "run" / "last.ckpt"), "--output", str(tmp_path / "out")]
    assert export.main(line) == 2
    complaint = "base' cannot be loaded .* say with --base where it is now"
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)
    assert not (tmp_path / "out").exists()
    assert export.main([*line, "--base", str(trained / "moved")]) == 0
    written, before = (
        json.loads((folder / "plugin.json").read_text())
        for folder in (tmp_path / "out", trained / "plugin")
    )
    assert written["base"].pop("name_or_path") == str(trained / "moved")
    assert before["base"].pop("name_or_path") == str(trained / "base")
    assert written == before
    model, _ = rcp.load(tmp_path / "out")  # found without being told again
    assert model.config.model_type == "llava"


def test_another_model_is_no_moved_base(trained, tmp_path, capsys):
    line = ["--checkpoint", str(trained / "run" / "last.ckpt"), "--output", str(tmp_path / "out")]
    assert export.main([*line, "--base", str(another(tmp_path / "other"))]) == 2
    complaint = "multi_modal_projector.linear_1.weight values differ"
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)
    assert export.main([*line, "--base", str(tmp_path / "gone")]) == 2
    error = capsys.readouterr().err
    assert_one_paragraph(error, "export.py", "gone' cannot be loaded")
    assert "--base" not in error  # it was given, and is what is wrong
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


COMMANDS = {
    "evaluate.py": (evaluate.main, ["--no-controls", "--limit", "2", "--max-new-tokens", "2"]),
    "rcp show": (lambda line: command(["show", *line]), ["--samples", "1"]),
    "rcp diagnose": (lambda line: command(["diagnose", *line]), ["--limit", "2"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_a_plugin_ask_for_the_base_and_take_it(name, trained, tmp_path, capsys):
    run, options = COMMANDS[name]
    line = ["--plugin", str(trained / "plugin"), "--data", str(trained / "data" / "all.json"),
            "--output", str(tmp_path / "out.png"), *options]
    assert run(line) == 2
    assert "say with --base where it is now" in capsys.readouterr().err
    assert run([*line, "--base", str(trained / "moved")]) == 0


def test_loading_takes_the_base_where_it_is_now(trained, tmp_path):
    with pytest.raises(rcp.UserError, match=r"rcp.load\('.*plugin', base='MODEL'\)"):
        rcp.load(trained / "plugin")
    model, processor = rcp.load(trained / "plugin", base=str(trained / "moved"), dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and processor.tokenizer is not None
    with pytest.raises(rcp.UserError, match="values differ"):
        rcp.load(trained / "plugin", base=str(another(tmp_path / "other")))
    plugin = rcp.load_plugin(trained / "plugin")
    plugin.base.name_or_path = ""
    rcp.save_plugin(plugin, tmp_path / "nameless")
    with pytest.raises(rcp.UserError, match="does not name its base model. Name it"):
        rcp.load(tmp_path / "nameless")
    rcp.load(tmp_path / "nameless", base=str(trained / "moved"))


def test_a_run_goes_on_where_the_base_is_now(trained, capsys):
    line = ["--config", str(trained / "config.yaml"), "--resume", "true", "--trainer.max_steps"]
    assert train.main([*line, "3"]) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", "cannot be loaded.*model.base")
    assert train.main([*line, "3", "--model.base", str(trained / "moved")]) == 0
