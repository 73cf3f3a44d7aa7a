"""The plug-in that lies in the repository: still what it was measured as."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import rcp
from data.drawing import draw_scene
from data.generate import asked, conversation
from rcp.base_model.loading import pretrained
from rcp.plugin import PluginSpec, StageSpec
from tests.documents import ROOT

FOLDER = ROOT / "data" / "tiny-plugin"
QUESTIONS = 100
FULL, PRUNED, RANDOM = 0.90, 0.93, 0.60
"""Of 100 validation questions the full model answers 92, the pruned one 97, and with as many tokens
chosen at random 45 to 51."""


@pytest.fixture(scope="module")
def subject():
    """Model, processor, prompts with images, and what is right."""
    model, processor = pretrained(str(ROOT / "data" / "tiny-vlm"), dtype=torch.float32)
    texts, images, answers = [], [], []
    for _, scene, question in islice(asked("val", 0), QUESTIONS):
        text, answer = conversation(question)
        texts.append(f"USER: {text} ASSISTANT:")
        images.append(Image.fromarray(draw_scene(scene)))
        answers.append(answer)
    processor.tokenizer.padding_side = "left"
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    return model.eval(), processor, inputs, answers


def accuracy(subject) -> float:
    model, processor, inputs, answers = subject
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    said = processor.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return float(np.mean([one.strip() == answer for one, answer in zip(said, answers)]))


def test_its_answers_are_those_of_the_full_model_but_for_few(subject):
    """Random tokens at the same schedule show what that is worth."""
    model, plugin = subject[0], rcp.load_plugin(FOLDER)
    stages = [StageSpec(stage.layer, stage.ratio, "random") for stage in plugin.spec.stages]
    assert accuracy(subject) >= FULL
    with rcp.attach(model, plugin):
        assert accuracy(subject) >= PRUNED
    with rcp.attach(model, rcp.Plugin.for_model(PluginSpec(stages), model)):
        assert accuracy(subject) <= RANDOM


def test_it_is_small_and_of_its_configuration():
    """And nothing in it tells of the machine it was made on."""
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == {"README.md", "evaluation.json", "plugin.json", "plugin.safetensors"}
    assert sum(files.values()) < 2e6
    described = json.loads((FOLDER / "plugin.json").read_text())
    configured = yaml.safe_load((ROOT / "configs" / "rcp_tiny.yaml").read_text())
    stages = [{**stage, "method": "rcp"} for stage in configured["model"]["plugin"]["stages"]]
    assert described["plugin"]["stages"] == stages
    assert described["training"]["steps"] == configured["trainer"]["max_steps"]
    assert described["base"]["name_or_path"] == "data/tiny-vlm"
    assert "/root" not in str(described) and "/work" not in str(described)


def test_its_card_says_what_was_measured():
    card = (FOLDER / "README.md").read_text()
    rows = {row["method"]: row for row in json.loads((FOLDER / "evaluation.json").read_text())}
    measured = rows["rcp"]
    assert f"| rcp | {100 * measured['accuracy']:.1f} | {100 * measured['retained']:.1f} |" in card
    assert f"on {measured['n']} questions" in card
    told = (ROOT / "data" / "README.md").read_text()
    assert f"{100 * measured['accuracy']:.1f} % on {measured['n']} test questions" in told


def test_the_example_is_the_first_test_scene():
    _, scene, question = next(asked("test", 0))
    assert np.array_equal(np.asarray(Image.open(ROOT / "data" / "example.png")), draw_scene(scene))
    assert conversation(question)[0] == "<image>\nwhat colour is the odd one out?"
