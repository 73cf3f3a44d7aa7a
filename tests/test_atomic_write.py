"""Whom the umask lets in may read every file; a kill leaves what was there, or its successor."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rcp
from rcp.atomic_write import atomic, whole_folder
from rcp.folder.read_write import write_files
from rcp.training.run.survival import AtomicCheckpointIO
from rcp.training.teacher.shards import Shards
from tests.tiny import reference_plugin, tiny_inputs


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path, files: bool) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file() == files}


def test_files_have_the_mode_of_the_umask(umask: int, tiny_llava, tmp_path: Path):
    plugin = reference_plugin("rcp", tiny_llava)
    plugin.lora = rcp.Plugin.for_model(
        rcp.PluginSpec([], lora=rcp.LoraSpec(rank=1)), tiny_llava
    ).lora
    rcp.save_plugin(plugin, tmp_path / "plugin")
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    Shards(tmp_path / "cache").write(0, {"a": torch.zeros(1)}, {})
    with rcp.attach(tiny_llava, plugin) as handle, handle.trace() as trace:
        tiny_llava(**tiny_inputs())
    trace.plan.save(tmp_path / "plan.safetensors")
    with atomic(tmp_path / "rows.json") as unfinished:
        unfinished.write_text("[]")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 9
    assert modes(tmp_path, files=True) == {0o666 & ~umask}
    assert modes(tmp_path, files=False) == {0o777 & ~umask}


def test_what_is_not_reached_leaves_nothing(tmp_path: Path):
    for write in (atomic, whole_folder):
        with pytest.raises(KeyboardInterrupt), write(tmp_path / "result"):
            raise KeyboardInterrupt
    with pytest.raises(rcp.UserError, match="'.*file/result' cannot be written"):
        (tmp_path / "file").touch()
        with whole_folder(tmp_path / "file" / "result"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("move", [1, 2])
def test_a_kill_while_a_plugin_is_replaced_leaves_one_whole(
    move: int, tiny_llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before the first move, and between the two."""
    plugin, target = reference_plugin("rcp", tiny_llava), tmp_path / "plugin"

    def replaced_by(bias: float) -> None:
        plugin.pruner(1).bias.data.fill_(bias)
        with whole_folder(target) as unfinished:
            write_files(plugin, unfinished)

    replaced_by(1.0)
    rename, moves = os.rename, iter((1, 2))

    def killed(*paths: Path) -> None:
        if next(moves) == move:
            raise KeyboardInterrupt
        rename(*paths)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", killed)
        replaced_by(2.0)
    assert target.exists() == (move == 1)
    assert rcp.load_plugin(target).pruner(1).bias.item() == 1.0
    replaced_by(3.0)
    assert rcp.load_plugin(target).pruner(1).bias.item() == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["plugin"]
