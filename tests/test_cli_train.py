"""train.py and export.py as a user runs them: what works, and how bad input is told."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import export
import train
from rcp.atomic_write import predecessor
from tests.cli import assert_one_paragraph, settings
from tests.tiny_base import conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture
def config(base_folder: Path, conversations: Path, tmp_path: Path) -> Path:
    """A configuration that trains two steps into ``tmp_path / "run"``."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(base_folder, conversations, tmp_path)))
    return path


def test_train_resume_and_export(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert train.main(["--config", str(config)]) == 0
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "run.json", "best.ckpt", "last.ckpt", "logs", "tensorboard"} == names
    logged = (run / "logs" / "version_0" / "metrics.csv").read_text()
    for name in ("train/task", "train/repair", "train/kept_from_layer_1", "train/temperature",
                 "train/gradient_share_task", "val/accuracy_counting", "val/full_accuracy"):
        assert name in logged.splitlines()[0], name

    assert json.loads((run / "run.json").read_text())["git"]
    more = ["--resume", "true", "--trainer.max_steps", "4"]
    assert train.main(["--config", str(config), *more]) == 0
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4

    to_plugin = ["--checkpoint", str(run / "best.ckpt"), "--output", str(tmp_path / "plugin")]
    assert export.main(to_plugin) == 0
    assert "Read back with equal logits" in capsys.readouterr().out
    assert export.main(to_plugin) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "plugin").rename(predecessor(tmp_path / "plugin"))  # as a kill may leave it
    assert export.main(to_plugin) == 2
    assert export.main([*to_plugin, "--overwrite"]) == 0
    assert export.main([*to_plugin, "--overwrite", "--evaluation", str(run / "run.json")]) == 2
    assert "run.json' is no evaluation" in capsys.readouterr().err
    assert "Measured" not in (tmp_path / "plugin" / "README.md").read_text()
    measured = ROOT / "data" / "tiny-plugin" / "evaluation.json"
    assert export.main([*to_plugin, "--overwrite", "--evaluation", str(measured)]) == 0
    assert "| rcp | 92.0 |" in (tmp_path / "plugin" / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("how", ["--resume", "--ckpt_path"])
def test_a_run_killed_while_its_checkpoint_was_replaced_goes_on(
    how: str, config: Path, tmp_path: Path
):
    last = tmp_path / "run" / "last.ckpt"
    assert train.main(["--config", str(config)]) == 0
    last.rename(predecessor(last))
    more = [how, "true" if how == "--resume" else str(last), "--trainer.max_steps", "4"]
    assert train.main(["--config", str(config), *more]) == 0
    with (tmp_path / "run" / "logs" / "version_1" / "metrics.csv").open() as file:
        losses = [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 2  # of four steps, two were done


BAD_ARGUMENTS = {
    "does not accept option 'model.temprature": ["--config", "{folder}/unknown.yaml"],
    "unrecognized arguments: --model.temprature.start": ["--model.temprature.start", "1"],
    "There is no configuration 'nothing.yaml'": ["--config", "nothing.yaml"],
    'data.batch_size": Expected a <class \'int\'>': ["--data.batch_size", "many"],
    "temperature.start is -1": ["--model.temperature.start", "-1"],
    "There is no checkpoint 'gone.ckpt'": ["--ckpt_path", "gone.ckpt"],
    "budget of 17": ["--model.plugin.stages", "null", "--model.plugin.budget", "17",
                     "--model.plugin.layers", "[1]"],
    "out of reach": ["--model.plugin.stages", "null", "--model.plugin.budget", "2",
                     "--model.plugin.layers", "[1]"],
    "plugin.stages says itself what each stage keeps": ["--model.plugin.wiped_from", "3"],
    "Pruning layer 9": ["--model.plugin.stages", "[{{layer: 9, ratio: 0.5}}]"],
    "no pruner called 'magic'": [
        "--model.plugin.stages", "[{{layer: 1, ratio: 0.5, method: magic}}]"
    ],
    "gradient_clip_val is -1.*: give 0 or more": ["--trainer.gradient_clip_val", "-1"],
    "val_check_interval is -1: give a number": ["--trainer.val_check_interval", "-1"],
    "val_check_interval is 3 batches, but an epoch of these data has 2": [
        "--trainer.val_check_interval", "3"
    ],
    "limit_train_batches is 0: give a number": ["--trainer.limit_train_batches", "0"],
    "nothing can be written in '/proc'": ["--run_folder", "/proc/run"],
    "nothing can be written in .*unknown.yaml": ["--run_folder", "{folder}/unknown.yaml/run"],
    "gives 'seed_everything' a second time in line 2": ["--config", "{folder}/twice.yaml"],
    "no conversation file": ["--data.train", "gone.json"],
    "base model .* cannot be loaded": ["--model.base", "{folder}/gone"],
    "batch_size is 1 in a single process": ["--data.batch_size", "1"],
    "strategy is deepspeed_stage_9, which there is not": [
        "--trainer.strategy", "deepspeed_stage_9"
    ],
    "guide.share is 2": ["--model.guide", "{{share: 2}}"],
    "guide.pruning_layers is empty": ["--model.guide", "{{pruning_layers: []}}"],
    "retention.share is 0": ["--model.retention", "{{share: 0}}"],
    "inner 8 does not divide into 3 heads": [
        "--model.plugin.stages",
        "[{{layer: 1, ratio: 0.5, method: rcp, arguments: {{inner: 8, heads: 3}}}}]",
    ],
    "repair adapter without layers": ["--model.plugin.repair", "{{layers: []}}"],
    "model.max_new_tokens is 0": ["--model.max_new_tokens", "0"],
    "model.margin is -1": ["--model.margin", "-1"],
    "data.num_workers is -1": ["--data.num_workers", "-1"],
    "learning_rate is -1": ["--model.optimizer.learning_rate", "-1"],
    "loss.task is -1": ["--model.loss.task", "-1"],
    "configuration .* is not text": ["--config", "{folder}/binary.yaml"],
    "unknown.yaml' is a file": ["--run_folder", "{folder}/unknown.yaml"],
    "seed_everything is -1": ["--seed_everything", "-1"],
    "trainer cannot be made: .*invalid strategy name": ["--trainer.strategy", "dpp"],
    "trainer cannot be made: .*invalid accelerator name": ["--trainer.accelerator", "gpuu"],
    "trainer cannot be made: .*should be an int > 0": ["--trainer.devices", "-3"],
    "trainer cannot be made: .*max_steps": ["--trainer.max_steps", "-5"],
    "package that is not installed: .*comet": ["--trainer.logger", "CometLogger"],
    "accumulate_grad_batches is 0": ["--trainer.accumulate_grad_batches", "0"],
    "run_folder is empty": ["--run_folder", ""],
    "configuration .* refers to itself": ["--config", "{folder}/recursive.yaml"],
    "configuration .* is too deep": ["--config", "{folder}/deep.yaml"],
    "no configuration 'xxx": ["--config", "x" * 300],
    "Importing 'stranger.Spy' is not allowed.* Classes of pytorch_lightning may": [
        "--config", "{folder}/stranger.yaml"
    ],
    "Importing 'stranger.Spy' is not allowed": [
        "--model.plugin", "{{class_path: stranger.Spy}}"
    ],
    "data set 'hf:' cannot be opened .it has no name.": ["--data.train", "hf:"],
    "no conversation file 'xxx": ["--data.train", "x" * 300],
    "cannot be made .File name too long": ["--model.teacher_cache", "x" * 300],
    "no checkpoint 'plugin.ckpt'": ["--ckpt_path", "."],
    "model.plugin is None": ["--config", "{folder}/unplugged.yaml"],
    "trainer is None": ["--config", "{folder}/untrained.yaml"],
    "run_folder is 'x*', .* name too long": ["--run_folder", "x" * 300],
    "precision is 16-mixed": ["--trainer.precision", "16-mixed"],
    "precision is bf16-true, .* kept in fp32": ["--trainer.precision", "bf16-true"],
    "images/0.png' of sample 'sample-0.*' cannot be read": ["--data.train", "{folder}/bad.json"],
}


def test_a_logger_is_added_to_those_of_the_run_folder(config: Path, tmp_path: Path):
    run = tmp_path / "run"
    arguments = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path),
                 "--trainer.logger.name", "further"]
    assert train.main(["--config", str(config), *arguments]) == 0
    assert (run / "tensorboard").is_dir() and (run / "logs").is_dir()
    assert (tmp_path / "further" / "version_0" / "metrics.csv").is_file()


def test_a_run_can_do_without_loggers(config: Path, tmp_path: Path):
    assert train.main(["--config", str(config), "--trainer.logger", "false"]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "run.json", "best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("complaint", BAD_ARGUMENTS)
def test_bad_input_is_one_paragraph_and_leaves_nothing(
    complaint: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    unknown = yaml.safe_load(config.read_text())
    unknown["model"]["temprature"] = {"start": 1.0}
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(unknown))
    (tmp_path / "twice.yaml").write_text("seed_everything: 1\nseed_everything: 2\n")
    (tmp_path / "unplugged.yaml").write_text("model: {plugin: null}")
    (tmp_path / "recursive.yaml").write_text("model: &model {plugin: *model}")
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    (tmp_path / "stranger.yaml").write_text("trainer: {callbacks: [{class_path: stranger.Spy}]}")
    spy = "from pytorch_lightning.callbacks import Callback as Spy"
    (tmp_path / "stranger.py").write_text(f"raise SystemExit('code was run')\n{spy}")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "untrained.yaml").write_text("trainer: null")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    write_conversations(tmp_path / "bad.json", [conversation(0)] * 8)
    (tmp_path / "images" / "0.png").write_bytes(b"no image")
    arguments = [part.format(folder=tmp_path) for part in BAD_ARGUMENTS[complaint]]
    assert train.main(["--config", str(config), *arguments]) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", complaint)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("an earlier run")
    assert train.main(["--config", str(config)]) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", "already holds a run")
    assert (tmp_path / "run" / "config.yaml").read_text() == "an earlier run"


def test_a_checkpoint_of_another_plugin_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main(["--config", str(config)]) == 0
    other = ["--model.plugin.stages", "[{layer: 2, ratio: 0.25}]"]
    checkpoint = ["--ckpt_path", str(tmp_path / "run" / "last.ckpt")]
    assert train.main(["--config", str(config), *other, *checkpoint]) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", "another plug-in: its stages")


def test_the_process_itself_ends_without_a_traceback():
    process = subprocess.run(
        [sys.executable, "train.py", "--config", "nothing.yaml"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("train.py: There is no configuration 'nothing.yaml'")
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_every_shipped_configuration_parses(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        train.main(["--config", path.name, "--print_config"])
    assert end.value.code in (0, None)
    assert "run_folder: runs/" in capsys.readouterr().out


def test_help_explains_every_field_of_ours(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    for field in ("--run_folder", "--model.plugin.budget", "--model.loss.repair", "--data.train"):
        assert field in text
