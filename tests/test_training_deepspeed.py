"""DeepSpeed: what can be known without a GPU, and on one the way from training to export."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.strategies import DeepSpeedStrategy

import rcp
from rcp.atomic_write import predecessor
from rcp.training import checkpoint as checkpoints
from rcp.training.export import export_checkpoint
from rcp.training.run import strategies
from rcp.training.run.strategies import (
    DEEPSPEED,
    PluginDeepSpeed,
    chosen_strategy,
    refuse_deepspeed,
)
from rcp.training.sharded import gathered_weights, independent_copy
from tests.test_cli_train import config  # noqa: F401  (a fixture)
from tests.test_training_plugin import training

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", DEEPSPEED)
def test_one_flag_configures_a_stage(name: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "")  # to be put back
    strategy = chosen_strategy(name, "cpu")
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert isinstance(strategy, PluginDeepSpeed) and strategy.exclude_frozen_parameters
    settings = strategy.config["zero_optimization"]
    assert settings["stage"] == (3 if "3" in name else 2)
    assert ("offload_optimizer" in settings) == name.endswith("offload")
    assert ("offload_param" in settings) == (name == "deepspeed_stage_3_offload")


def test_other_strategies_are_left_as_they_are():
    assert chosen_strategy("ddp", "cpu") == "ddp" and chosen_strategy("auto", "auto") == "auto"


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [("compiler", r"C\+\+.*none is found.*g\+\+.*--trainer.strategy ddp"),
     ("package", r"not installed.*pip install 'rcp\[deepspeed\]'.*--trainer.strategy ddp")],
)
def test_what_deepspeed_lacks_is_told(
    missing: str, complaint: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(strategies.shutil, "which", lambda _: None)
    found = None if missing == "package" else "deepspeed"
    monkeypatch.setattr(strategies, "find_spec", lambda _: found)
    with pytest.raises(rcp.UserError, match=f"deepspeed_stage_3.*{complaint}"):
        refuse_deepspeed("deepspeed_stage_3", "cpu")
    monkeypatch.setattr(strategies.torch.cuda, "is_available", lambda: True)
    if missing == "compiler":
        refuse_deepspeed("deepspeed_stage_3", "gpu")  # kernels of its own are not needed there


class OneProcess(PluginDeepSpeed):
    """The part of the strategy that writes checkpoints, without an engine."""

    is_global_zero = True

    def __init__(self, training: Any) -> None:
        self._lightning_module = training

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def barrier(self, *_: Any, **__: Any) -> None:
        pass


def write_shards(_: Any, checkpoint: dict[str, Any], path: Path, *__: Any) -> None:
    """As DeepSpeed does: a file per process, no plug-in that could be read by itself."""
    (path / "checkpoint").mkdir(parents=True)
    (path / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"shard")


@pytest.fixture
def written(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A training module, the checkpoint Lightning would hand over, and a strategy to write it."""
    monkeypatch.setattr(DeepSpeedStrategy, "save_checkpoint", write_shards)
    module = training(base_folder)
    summary = {"dtype": "float32", "steps": 4, "results": {"accuracy": 0.5}}
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "global_step": 4}
    checkpoints.keep_plugin_only(checkpoint, module.plugin, summary)
    return module, checkpoint, OneProcess(module)


def test_a_sharded_checkpoint_is_exported_like_a_whole_one(written, tmp_path: Path):
    module, checkpoint, strategy = written
    for _ in range(2):  # the second replaces the first
        strategy.save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt" / "checkpoint").is_dir()
    exported = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "plugin")
    expected = module.plugin.state_dict()
    found = rcp.load_plugin(tmp_path / "plugin").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert exported.training_summary["steps"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "plugin"]


def test_what_deepspeed_hands_over_when_a_run_goes_on_holds_no_weights(written):
    """It has loaded them itself, from the shards."""
    module, checkpoint, _ = written
    module.on_load_checkpoint({k: v for k, v in checkpoint.items() if k != "state_dict"})
    assert module.results == {"accuracy": 0.5}


def test_an_interrupted_write_leaves_the_checkpoint_before_it(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, checkpoint, strategy = written
    strategy.save_checkpoint(checkpoint, tmp_path / "last.ckpt")

    def interrupted(*arguments: Any) -> None:
        write_shards(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(DeepSpeedStrategy, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        strategy.save_checkpoint({**checkpoint, "global_step": 8}, tmp_path / "last.ckpt")
    assert checkpoints.read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("moment, step", [(1, 4), (2, 4), (3, 8)])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(
    moment: int, step: int, written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before the first move, between the two, and before what was there is removed."""
    _, checkpoint, strategy = written
    last = tmp_path / "last.ckpt"
    strategy.save_checkpoint(checkpoint, last)
    rename, remove, moments = os.rename, shutil.rmtree, iter(range(1, 4))

    def killed_at_its_moment(work: Callable[..., None], *arguments: Any, **options: Any) -> None:
        if next(moments) == moment:
            raise KeyboardInterrupt
        work(*arguments, **options)

    monkeypatch.setattr(os, "rename", partial(killed_at_its_moment, rename))
    # removed as well, but before the first move: what is not there, and an unfinished folder
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (
        killed_at_its_moment(remove, path, **options) if predecessor(last).exists()
        else remove(path, **options)
    ))
    with pytest.raises(KeyboardInterrupt):
        strategy.save_checkpoint({**checkpoint, "global_step": 8}, last)
    monkeypatch.undo()
    assert last.exists() == (moment != 2)
    assert checkpoints.read_checkpoint(last)["global_step"] == step

    monkeypatch.setattr(DeepSpeedStrategy, "save_checkpoint", write_shards)
    strategy.save_checkpoint({**checkpoint, "global_step": 12}, last)  # what a resumed run does
    assert checkpoints.read_checkpoint(last)["global_step"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_without_the_plugin_is_no_checkpoint(tmp_path: Path):
    write_shards(None, {}, tmp_path / "last.ckpt")
    with pytest.raises(rcp.UserError, match="no checkpoint '.*last.ckpt/plugin.ckpt'"):
        export_checkpoint(tmp_path / "last.ckpt", tmp_path / "plugin")


def test_a_copy_shares_nothing(base_folder: Path):
    plugin = training(base_folder).plugin
    copy = independent_copy(plugin)
    expected = gathered_weights(plugin)
    for parameter in plugin.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(copy.state_dict()[name], value) for name, value in expected.items())
    assert copy.base == plugin.base and not copy.training


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "deepspeed_stage_3"])
def test_train_resume_and_export_on_a_gpu(
    strategy: str, config: Path, tmp_path: Path  # noqa: F811
):
    pytest.importorskip("deepspeed")
    values = yaml.safe_load(config.read_text())
    values["model"]["dtype"] = "bfloat16"
    values["trainer"] |= {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed",
                          "strategy": strategy}
    config.write_text(yaml.safe_dump(values))

    def run(*arguments: str) -> SimpleNamespace:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return SimpleNamespace(out=done.stdout)

    run("train.py", "--config", str(config))
    more = ["--resume", "true", "--trainer.max_steps", "4"]
    run("train.py", "--config", str(config), *more)
    last = tmp_path / "run" / "last.ckpt"
    assert checkpoints.read_checkpoint(last)["global_step"] == 4
    shards = sum(file.stat().st_size for file in last.rglob("*.pt"))
    base = sum(p.numel() for p in training(Path(values["model"]["base"])).model.parameters())
    assert shards < 2 * base, "the frozen base went into the checkpoint"
    done = run("export.py", "--checkpoint", str(last), "--output", str(tmp_path / "plugin"))
    assert "Read back with equal logits" in done.out
    assert json.loads((tmp_path / "plugin" / "plugin.json").read_text())["training"]["steps"] == 4
