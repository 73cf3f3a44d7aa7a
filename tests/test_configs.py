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
    guide = settings["model"].get("guide")
    if guide and not guide.get("online"):
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
    "rcp_llava_paper 192": (
        "--model.plugin.stages=[{layer: 4, ratio: 0.6021}, {layer: 14, ratio: 0.0747}, "
        "{layer: 24, ratio: 0.0156}]",
    ),
    "rcp_llava_paper 128": (
        "--model.plugin.stages=[{layer: 4, ratio: 0.2584}, {layer: 14, ratio: 0.0413}, "
        "{layer: 24, ratio: 0.0154}]",
    ),
    "rcp_llava_paper 64": (),
    "rcp_llava_paper 96": (
        "--model.plugin.stages=null", "--model.plugin.budget=96", "--model.plugin.layers=[1,13,25]",
    ),
    "rcp_llava 64": (),
    "rcp_llava 192": ("--model.plugin.budget=0.3333",),
    "rcp_llava_13b 192": (),
    "rcp_llava_13b 64": ("--model.plugin.budget=0.1111",),
}
"""The overrides that configurations name in their comments, by mean tokens."""


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_overrides(
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


def test_the_published_recipe_is_the_papers_to_the_letter():
    """What its drafts tell, field by field; every default that could hide a choice of ours."""
    recipe = yaml.safe_load((ROOT / "configs" / "rcp_llava_paper.yaml").read_text())
    model, data, trainer = recipe["model"], recipe["data"], recipe["trainer"]
    plugin = model["plugin"]
    assert [stage["layer"] for stage in plugin["stages"]] == [1, 13, 25]
    assert [stage["ratio"] for stage in plugin["stages"]] == [0.1672, 0.0459, 0.0144]
    for stage in plugin["stages"]:
        assert stage["arguments"] == {"inner": 512, "queries": 16, "heads": 4, "dropout": 0.2,
                                      "gain": 0.1, "literal_scale": True}
    assert plugin["repair"] == {"layers": [22, 29],
                                "arguments": {"inner": 512, "side": 24, "channels": 64}}
    assert plugin["selection"] == "threshold" and model["guide"] is None
    assert not {"margin", "retention", "teacher_cache", "pruners_from"} & set(model)
    assert model["loss"] == {"task": 1.5, "repair": 3.0, "budget": 200.0, "variance": 3.0,
                             "normalised": False, "form": "moments"}
    assert model["temperature"] == {"start": 1.5, "end": 0.2, "fall_until": 0.6, "noise_until": 0.8}
    assert model["optimizer"] == {"learning_rate": 5e-5, "weight_decay": 0.01, "warmup": 0.1,
                                  "floor": 0.1}
    assert model["budget_warmup"] == 0.1 and trainer["max_epochs"] == 1
    assert data["batch_size"] * trainer["accumulate_grad_batches"] == 32
    assert data["max_length"] == 1024 and trainer["precision"] == "bf16-mixed"


PUBLISHED_BASES = [
    path for path in CONFIGS
    if path.stem.startswith(("rcp_", "covipal_"))
    and not path.stem.endswith("paper") and "tiny" not in path.stem
]


@pytest.mark.parametrize("path", PUBLISHED_BASES, ids=[path.stem for path in PUBLISHED_BASES])
def test_published_bases_get_the_recipe_that_works_best(path: Path):
    """One stage before the decoder, its pruner taught in the steps that train the rest."""
    model = yaml.safe_load(path.read_text())["model"]
    plugin = model["plugin"]
    stages = plugin.get("layers") or [stage["layer"] for stage in plugin["stages"]]
    assert stages == [0] and plugin["selection"] == "top_k"
    assert model["guide"]["online"] and model["guide"]["share"] == 1.0
    assert model["guide"].get("layer") is None and "retention" not in model
