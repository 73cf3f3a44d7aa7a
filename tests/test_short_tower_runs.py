"""A plug-in whose vision tower drops, in training, estimates and comparisons."""

import pytest
import pytorch_lightning as pl
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

import rcp
from rcp.__main__ import main
from rcp.backbones import backbone_for
from rcp.base_model.cost import tower_flops
from rcp.base_model.sizes import tower_sizes
from rcp.conversations import ConversationDataset
from rcp.evaluation.comparison import Timing, compare
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.generation import Questions
from rcp.serving.vllm.entry_stage import entry_stage
from rcp.training.data_module import ConversationDataModule
from rcp.training.estimate.planning import on_meta
from rcp.training.options import LossOptions, PluginOptions
from rcp.training.phases import GuideOptions
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.cli import read_configuration
from tests.tiny_base import TOKENS

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RCP = {"inner": 8, "queries": 4, "heads": 2}


def options(**fields) -> PluginOptions:
    stages = [rcp.StageSpec(2, 0.2, "rcp", RCP)]
    return PluginOptions(**{"stages": stages, "tower": rcp.TowerSpec([0], 0.5)} | fields)


def test_what_lies_behind_a_shorter_tower_is_trained(base_folder, conversations, tmp_path):
    """Its teacher looks at all patches; validation drops as it will be dropped."""
    module = PluginTraining(
        str(base_folder), options(), loss=LossOptions(distillation=1.0), max_new_tokens=2,
        teacher_cache=str(tmp_path / "cache"),
    )
    before = [part.clone() for part in module.plugin.parameters()]
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )
    trainer.fit(module, ConversationDataModule(
        str(conversations), str(conversations), batch_size=4
    ))
    assert {"accuracy", "full_accuracy"} <= set(module.results)
    moved = [not torch.equal(a, b) for a, b in zip(before, module.plugin.parameters())]
    assert any(moved)
    with pytest.raises(rcp.UserError, match="model.plugin.tower and model.guide"):
        PluginTraining(str(base_folder), options(), guide=GuideOptions(share=1.0))


def test_a_budget_says_nothing_of_what_the_tower_keeps(base_folder):
    model = AutoModelForImageTextToText.from_pretrained(base_folder)
    with pytest.raises(rcp.UserError, match="plugin.tower.*plugin.stages"):
        options(stages=None, budget=0.3, layers=[2]).spec_for(backbone_for(model))


def test_an_estimate_names_what_is_left_behind_each_block(base_folder, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    plugin = {"tower": {"blocks": [0], "keep": 0.55},
              "stages": [{"layer": 2, "ratio": 0.2, "arguments": RCP}]}
    data = {"train": "no.json", "val": "no.json", "batch_size": 4}
    path.write_text(yaml.safe_dump({"model": {"base": str(base_folder), "plugin": plugin},
                                    "data": data}))
    assert main(["estimate", "--config", str(path)]) == 0
    out = capsys.readouterr().out
    model, made = on_meta(read_configuration(["--config", str(path)]))
    assert made.spec.tower == rcp.TowerSpec([0], 0.55)
    sizes = tower_sizes(backbone_for(model))
    share = tower_flops(sizes, TOKENS, {0: 9}) / tower_flops(sizes, TOKENS, {})
    assert f"an image ({share:.1%}); of 16 patches are left 9 behind block 0" in out
    assert "from layer 0: 9\n" in out and "from layer 2: 3\n" in out


def test_a_comparison_has_each_encode_its_own_images(base_folder, conversations):
    model = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    questions = Questions(
        backbone_for(model), AutoProcessor.from_pretrained(base_folder),
        ConversationDataset(conversations), limit=4, max_new_tokens=2,
    )
    spec = rcp.PluginSpec([], tower=rcp.TowerSpec([0], 0.55))
    plugin = rcp.Plugin.for_model(spec, model)
    watching = rcp.Plugin.for_model(
        rcp.PluginSpec([rcp.StageSpec(0, 0.5, "cls_attention")]), model
    )
    others = [Contestant("cls", watching)]
    report = compare(
        questions, [Contestant("tower", plugin)], others, seeds=1, timing=Timing(1, 1)
    )
    found = {row.method: row for row in report.rows}
    entering = {name: row.entering_tokens for name, row in found.items()}
    assert entering["full"] == 16 and entering["cls"] == 8
    assert entering["tower"] == entering["random"] == entering["uniform"] == 9
    sizes = tower_sizes(questions.backbone)
    encoded = [tower_flops(sizes, TOKENS, left) for left in ({}, {0: 9})]
    flops = [found[name].flops for name in ("full", "tower")]
    assert f"costs {encoded[1] / 1e9:.3f} G more" in "".join(report.notes)
    saved = 1 - (flops[1] + encoded[1]) / (flops[0] + encoded[0])
    assert f"{saved:.1%} with image encoding" in "".join(report.notes)
    with pytest.raises(rcp.UserError, match="inside no vision tower.*\\[0\\]"):
        entry_stage(plugin, entry_only=True)
