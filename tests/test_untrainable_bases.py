"""Families that no plug-in can be trained on: said before weights or data are read."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, PaliGemmaConfig

import train
from rcp.__main__ import main as command
from rcp.backbones.base import BACKBONES
from rcp.backbones.refused import REFUSED
from rcp.errors import UserError
from rcp.training.frozen_base import refuse_untrainable_base
from rcp.training.options import PluginOptions
from rcp.training.plugin_training import PluginTraining
from tests.cli import assert_one_paragraph, settings

UNTRAINABLE = [name for name in BACKBONES.names() if BACKBONES.get(name).untrainable]


def configuration_alone(folder: Path, model_type: str) -> Path:
    """A base of ``model_type`` without weights and processor."""
    folder.mkdir()
    AutoConfig.for_model(model_type).save_pretrained(folder)
    return folder


def reason(model_type: str) -> str:
    if model_type in REFUSED:
        return REFUSED[model_type][:40]
    if model_type in BACKBONES.names():
        return BACKBONES.get(model_type).untrainable
    return "is not a family this version"


@pytest.mark.parametrize("model_type", [*UNTRAINABLE, *REFUSED, "blip", "llava_next_video"])
def test_a_run_says_it_before_it_reads_anything(model_type, tmp_path, capsys):
    if model_type in BACKBONES.names() and model_type not in UNTRAINABLE:
        pytest.skip("supported by now")
    base = configuration_alone(tmp_path / "base", model_type)
    values = settings(base, tmp_path / "no-data.json", tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(tmp_path / "config.yaml")]) == 2
    assert_one_paragraph(capsys.readouterr().err, "train.py", reason(model_type))
    assert not (tmp_path / "run").exists()
    assert command(["estimate", "--config", str(tmp_path / "config.yaml")]) == 2
    assert reason(model_type) in capsys.readouterr().err
    with pytest.raises(UserError, match=reason(model_type)[:20]):  # as a library, too
        PluginTraining(str(base), PluginOptions(stages=[]))


def test_the_next_step_names_families_and_what_works_without_training(tmp_path):
    base = configuration_alone(tmp_path / "base", "paligemma")
    with pytest.raises(UserError, match="evaluate.py --pruner.* train on: .*llava") as e:
        refuse_untrainable_base(str(base))
    assert not set(UNTRAINABLE) & set(str(e.value).partition("train on: ")[2][:-1].split(", "))


@pytest.mark.parametrize("model_type", sorted(set(BACKBONES.names()) - set(UNTRAINABLE)))
def test_of_all_others_nothing_is_said(model_type, tmp_path):
    refuse_untrainable_base(str(configuration_alone(tmp_path / "base", model_type)))


def test_of_an_adapter_its_base_is_asked(tmp_path):
    base = configuration_alone(tmp_path / "base", "paligemma")
    (tmp_path / "adapter").mkdir()
    named = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match="ends every text with a newline"):
        refuse_untrainable_base(str(tmp_path / "adapter"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "nothing"}', "{}"])
def test_a_configuration_that_cannot_be_read_is_left_to_the_loader(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    refuse_untrainable_base(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(content)
    refuse_untrainable_base(str(tmp_path))


def test_the_list_of_families_says_it(capsys):
    assert command(["backbones"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in BACKBONES.names():
        assert ("no training: it" in lines[name]) == (name in UNTRAINABLE)
    assert PaliGemmaConfig.model_type in UNTRAINABLE
