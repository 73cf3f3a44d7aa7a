"""train.py and export.py as a user runs them: what works, and how bad input is told."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import export
import train
from rcp.training.checkpoint import predecessor
from tests.tiny_base import conversation, make_model, make_processor, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
FILM = {"inner": 8, "side": 4, "channels": 4}
RCP = {"inner": 8, "queries": 4, "heads": 2}


@pytest.fixture
def config(base_folder: Path, conversations: Path, tmp_path: Path) -> Path:
    """A configuration that trains two steps into ``tmp_path / "run"``."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(base_folder, conversations, tmp_path)))
    return path


def settings(base_folder: Path, conversations: Path, folder: Path) -> dict[str, Any]:
    return {
        "run_folder": str(folder / "run"),
        "model": {
            "base": str(base_folder),
            "plugin": {
                "stages": [{"layer": 1, "ratio": 0.25, "method": "rcp", "arguments": RCP}],
                "repair": {"layers": [3], "arguments": FILM},
            },
            "max_new_tokens": 2,
        },
        "data": {"train": str(conversations), "val": str(conversations), "batch_size": 4},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
    }


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
    assert export.main([*to_plugin, "--overwrite"]) == 0
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
    "strategy is deepspeed_stage_3, .* needs CUDA .*--trainer.strategy ddp": [
        "--trainer.strategy", "deepspeed_stage_3"
    ],
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
    "configuration .* is no text": ["--config", "{folder}/binary.yaml"],
    "unknown.yaml' is a file": ["--run_folder", "{folder}/unknown.yaml"],
    "seed_everything is -1": ["--seed_everything", "-1"],
    "trainer cannot be made: .*invalid strategy name": ["--trainer.strategy", "dpp"],
    "trainer cannot be made: .*invalid accelerator name": ["--trainer.accelerator", "gpuu"],
    "trainer cannot be made: .*should be an int > 0": ["--trainer.devices", "-3"],
    "trainer cannot be made: .*max_steps": ["--trainer.max_steps", "-5"],
    "package that is not installed: .*comet": ["--trainer.logger", "CometLogger"],
    "accumulate_grad_batches is 0": ["--trainer.accumulate_grad_batches", "0"],
    "run_folder is empty": ["--run_folder", ""],
    "aliases of the configuration .* unfold": ["--config", "{folder}/bomb.yaml"],
    "aliases .* into themselves": ["--config", "{folder}/recursive.yaml"],
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
    "images/0.png' of sample 'sample-0' cannot be read": ["--data.train", "{folder}/bad.json"],
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
    aliases = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(["x0: &x0 [1]", *aliases]))
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


def assert_one_paragraph(error: str, script: str, complaint: str) -> None:
    paragraph = error[error.index(f"{script}: ") :]
    assert len(paragraph.strip().splitlines()) == 1 and "Traceback" not in error
    assert re.search(complaint, paragraph), paragraph


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
    "holds format version 2, but": put("rcp/format_version", 2),
    "holds format version True, but": put("rcp/format_version", True),
    "is damaged: PluginSpec has no place for 5": put("rcp/spec", 5),
    "is damaged: Trained.hidden_size is '32'": put("rcp/hidden_size", "32"),
    "is damaged: BaseIdentity has no place for None": put("rcp/base", None),
    "dtype is 'load', but it must be 'float32' or 'bfloat16'": put("rcp/dtype", "load"),
    "is damaged: .*missing .* 'training_summary'": lambda checkpoint: (
        checkpoint["rcp"].pop("training_summary")
    ),
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
        ("run", "no exported plug-in, and --overwrite replaces nothing else"),
        ("run/last.ckpt", "no exported plug-in"),
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
