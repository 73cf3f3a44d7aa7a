"""Checkpoints that are damaged, strange or of another base, as train.py and export.py tell it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import export
import train
from tests.cli import assert_one_paragraph, settings
from tests.tiny_base import conversation, make_model, make_processor, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def put(where: str, value: object) -> Callable[[dict], None]:
    """A change of a checkpoint at the place ``where``, names between slashes."""
    *parents, last = where.split("/")

    def change(checkpoint: dict) -> None:
        for name in parents:
            checkpoint = checkpoint[name]
        checkpoint[last] = value

    return change


WEIGHT = "state_dict/plugin.pruners.1.queries"
DAMAGE = {
    "holds no plug-in": put("rcp", 5),
    "has format version 2;": put("rcp/format_version", 2),
    "has format version True;": put("rcp/format_version", True),
    "is damaged: PluginSpec has no place for 5": put("rcp/plugin", 5),
    "is damaged: Description.hidden_size is '32'": put("rcp/hidden_size", "32"),
    "is damaged: it does not tell the base": put("rcp/base", None),
    "dtype is 'load', but it must be 'float32' or 'bfloat16'": put("rcp/training/dtype", "load"),
    "is damaged: it lacks 'training'": lambda checkpoint: checkpoint["rcp"].pop("training"),
    "holds no weights by name": put("state_dict", 5),
    "holds no weights by name. Give": put("state_dict", {5: torch.zeros(1)}),
    "1 of the plug-in's tensors are missing in the checkpoint": lambda checkpoint: (
        checkpoint["state_dict"].pop("plugin.pruners.1.queries")
    ),
    r"is \[7\], the plug-in's is \[4, 8\]": put(WEIGHT, torch.zeros(7)),
    "is torch.int8, the plug-in's": put(WEIGHT, torch.zeros(4, 8, dtype=torch.int8)),
    "holds no weights by name. Give best": put(WEIGHT, torch.zeros(4, 8, device="meta")),
    "values that are not finite": put(WEIGHT, torch.full((4, 8), torch.nan)),
}
ONLY_RESUMED = {
    "holds no optimizer_states, so that": lambda checkpoint: checkpoint.pop("optimizer_states"),
    "holds no pytorch-lightning_version": put("pytorch-lightning_version", 5),
}


@pytest.fixture(scope="module")
def checkpoint(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """last.ckpt of a run of the fixture ``config``."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [conversation(n) for n in range(8)]
    values = settings(base_folder, write_conversations(folder / "data" / "all.json", rows), folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(folder / "config.yaml")]) == 0
    return folder / "run" / "last.ckpt"


def changed(checkpoint: Path, change: Callable[[dict], None], folder: Path) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


@pytest.mark.parametrize("complaint", DAMAGE)
def test_export_refuses_damaged_checkpoints(
    complaint: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = changed(checkpoint, DAMAGE[complaint], tmp_path)
    assert export.main(["--checkpoint", str(path), "--output", str(tmp_path / "plugin")]) == 2
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.ckpt"]


@pytest.mark.parametrize("complaint", [*DAMAGE, *ONLY_RESUMED])
def test_resuming_from_damaged_checkpoints_is_refused(
    complaint: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = changed(checkpoint, (DAMAGE | ONLY_RESUMED)[complaint], tmp_path)
    config = str(checkpoint.parent.with_name("config.yaml"))
    run = ["--config", config, "--run_folder", str(tmp_path / "run"), "--ckpt_path", str(path)]
    assert train.main(run) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", complaint)
    assert not (tmp_path / "run").exists()


def as_before(checkpoint: dict) -> None:
    """With its entry in the shape that was written until 2026-11."""
    entry = checkpoint["rcp"]
    checkpoint["rcp"] = {
        "format_version": 1,
        "spec": entry["plugin"],
        "dtype": entry["training"].pop("dtype"),
        "training_summary": entry["training"],
        **{name: entry[name] for name in ("hidden_size", "num_layers", "base")},
    }


def test_a_checkpoint_of_before_is_exported_and_resumed(checkpoint: Path, tmp_path: Path):
    path = changed(checkpoint, as_before, tmp_path)
    for source, output in ((path, "before"), (checkpoint, "today")):
        assert export.main(["--checkpoint", str(source), "--output", str(tmp_path / output)]) == 0
    before, today = (
        json.loads((tmp_path / name / "plugin.json").read_text()) for name in ("before", "today")
    )
    assert before == today and today["training"]["dtype"] == "float32"
    config = str(checkpoint.parent.with_name("config.yaml"))
    run = ["--config", config, "--run_folder", str(tmp_path / "run"), "--ckpt_path", str(path)]
    assert train.main([*run, "--trainer.max_steps", "3"]) == 0


def test_a_checkpoint_describes_the_plugin_as_the_folder_does(checkpoint: Path, tmp_path: Path):
    assert export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "plugin.json").read_text())
    assert torch.load(checkpoint, weights_only=True)["rcp"] == written


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put("rcp/spec", 5), "is damaged: PluginSpec has no place for 5"),
        (put("rcp/dtype", "load"), "dtype is 'load', but it must be 'float32' or 'bfloat16'"),
        (lambda content: content["rcp"].pop("training_summary"), "is damaged: it lacks 'training'"),
    ],
)
def test_a_damaged_checkpoint_of_before_is_refused(
    change: Callable[[dict], None], complaint: str, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    path = changed(checkpoint, lambda content: (as_before(content), change(content)), tmp_path)
    assert export.main(["--checkpoint", str(path), "--output", str(tmp_path / "plugin")]) == 2
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)


def test_a_checkpoint_changes_no_field_of_the_configuration(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Lightning would take them from it, before anything else looks at the file."""
    path = changed(checkpoint, put("hyper_parameters", {"base": "/elsewhere"}), tmp_path)
    config = str(checkpoint.parent.with_name("config.yaml"))
    run = ["--config", config, "--run_folder", str(tmp_path / "run"), "--ckpt_path", str(path)]
    assert train.main([*run, "--trainer.max_steps", "3"]) == 0
    assert "/elsewhere" not in (tmp_path / "run" / "config.yaml").read_text()
    path.write_bytes(path.read_bytes()[:1000])
    assert train.main(run) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", "cannot be read")


def test_resuming_on_another_base_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = make_model()
    other.get_input_embeddings().weight.data.mul_(2)
    other.save_pretrained(tmp_path / "other")
    make_processor().save_pretrained(tmp_path / "other")
    config = str(checkpoint.parent.with_name("config.yaml"))
    run = ["--config", config, "--run_folder", str(tmp_path / "run"), "--model.base",
           str(tmp_path / "other"), "--ckpt_path", str(checkpoint)]
    assert train.main(run) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", "embedding values differ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "There is no checkpoint"),
        (b"PK\x03\x04 cut short", "cannot be read"),
        ({"state_dict": {}}, "holds no plug-in"),
    ],
)
def test_export_refuses_bad_checkpoints(
    content: object, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    output = tmp_path / "out" / "plugin"
    assert export.main(["--checkpoint", str(path), "--output", str(output)]) == 2
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("run", "not an exported plug-in, and --overwrite replaces nothing else"),
        ("run/last.ckpt", "not an exported plug-in"),
        ("run/last.ckpt/plugin", "nothing can be written in .*last.ckpt"),
        ("/proc/plugin", "nothing can be written in '/proc'"),
    ],
)
def test_export_replaces_plugins_only_and_tells_what_cannot_be_written(
    output: str, complaint: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    place = str(checkpoint.parent.parent / output)
    before = sorted(checkpoint.parent.parent.rglob("*"))
    assert export.main(["--checkpoint", str(checkpoint), "--output", place, "--overwrite"]) == 2
    assert_one_paragraph(capsys.readouterr().err, "export.py", complaint)
    assert sorted(checkpoint.parent.parent.rglob("*")) == before
