"""Every shipped configuration trains: two steps of its recipe on a tiny stand-in for its base."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import rcp.base_model.loading
import train
from rcp.choosing.schedule import Schedule, mean_ratio_of, schedule_for
from tests.dry_run import PUBLISHED, Loads, write_base
from tests.tiny_base import conversation, write_conversations

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

HERE = {
    "data.batch_size": 2,
    "data.val_batch_size": 4,
    "data.num_workers": 0,
    "trainer.max_steps": 2,
    "trainer.accumulate_grad_batches": 1,
    "trainer.accelerator": "cpu",
    "trainer.strategy": "auto",
    "trainer.devices": 1,
    "trainer.val_check_interval": 2,
    "trainer.limit_val_batches": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
}
"""What a recipe for GPU nodes and large data needs to run on one CPU and eight samples."""


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_configuration_trains(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load(path.read_text())
    base = settings["model"]["base"]
    changes: dict[str, Any] = HERE | {"run_folder": tmp_path / "run"}
    if not Path(base).is_dir():
        processor = write_base(base, tmp_path / "base")
        monkeypatch.setattr(rcp.base_model.loading, "AutoProcessor", Loads(processor))
        changes["model.base"] = tmp_path / "base"
    if settings["model"].get("guide"):
        changes["model.guide.share"] = 0.5  # a step in each stage
    if settings["model"].get("teacher_cache"):
        changes["model.teacher_cache"] = tmp_path / "cache"
    samples = [conversation(number) for number in range(8)]
    changes["data.train"] = write_conversations(tmp_path / "data" / "all.json", samples)
    changes["data.val"] = changes["data.train"]
    arguments = [f"--{name}={value}" for name, value in changes.items()]
    assert train.main(["--config", str(path), *arguments]) == 0
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    summary = checkpoint["rcp"]["training"]
    assert {"accuracy", "full_accuracy"} <= set(summary["results"])


BUDGETS = {
    "rcp_llava 192": (
        "--model.plugin.stages=[{layer: 4, ratio: 0.6021}, {layer: 14, ratio: 0.0747}, "
        "{layer: 24, ratio: 0.0156}]",
    ),
    "rcp_llava 128": (
        "--model.plugin.stages=[{layer: 4, ratio: 0.2584}, {layer: 14, ratio: 0.0413}, "
        "{layer: 24, ratio: 0.0154}]",
    ),
    "rcp_llava 64": (),
    "rcp_llava 96": (
        "--model.plugin.stages=null", "--model.plugin.budget=96", "--model.plugin.layers=[1,13,25]",
    ),
    "rcp_llava_13b 192": (),
    "rcp_llava_13b 128": ("--model.plugin.budget=0.2222",),
    "rcp_llava_13b 64": ("--model.plugin.budget=0.1111", "--model.plugin.layers=[1,16,31]"),
}
"""The overrides that the paper's configurations name in their comments, by mean tokens."""


@pytest.mark.parametrize("name", BUDGETS)
def test_the_papers_budgets_are_overrides(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Mean over layers within 3 % of what it is called; the published rows are rounded."""
    monkeypatch.chdir(ROOT)
    path, tokens = name.split()
    with pytest.raises(SystemExit):
        train.main(["--config", f"{path}.yaml", *BUDGETS[name], "--print_config"])
    plugin = yaml.safe_load(capsys.readouterr().out)["model"]["plugin"]
    base = yaml.safe_load((ROOT / "configs" / f"{path}.yaml").read_text())["model"]["base"]
    _, depth = PUBLISHED[base]
    if plugin["stages"] is None:
        ratio = mean_ratio_of(plugin["budget"], 576)
        schedule = schedule_for(ratio, tuple(plugin["layers"]), depth)
    else:
        stages = plugin["stages"]
        schedule = Schedule(
            tuple(s["layer"] for s in stages), tuple(s["ratio"] for s in stages), depth
        )
    assert 576 * schedule.mean_ratio == pytest.approx(float(tokens), rel=0.03)
