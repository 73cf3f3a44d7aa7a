"""The guide-layer finder: what it ranks, prints and plots."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcp import Plugin, PluginSpec, StageSpec, attach
from rcp.__main__ import main
from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.conversations import ConversationDataset
from rcp.evaluation.generation import Questions
from rcp.evaluation.studies.guide_layers import guide_scores
from tests.tiny_base import LAYERS

pytest_plugins = ["tests.training_fixtures"]


def command(base: Path, conversations: Path, *more: str) -> list[str]:
    return ["guide-layer", "--base", str(base), "--data", str(conversations), "--budget", "4",
            "--max-new-tokens", "2", *more]


def test_it_ranks_prints_and_plots(
    base_folder: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plot = tmp_path / "new" / "plot.png"
    assert main(command(base_folder, conversations, "--plot", str(plot))) == 0
    header, *lines, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["layer", "accuracy", "%", "retained", "%"]
    assert sorted(int(line.split()[0]) for line in lines) == list(range(LAYERS))
    assert str(plot) in last
    with Image.open(plot) as image:
        assert image.width > 500


def test_a_layer_is_scored_by_what_is_said_with_its_tokens_alone(
    base_folder: Path, conversations: Path
):
    """With the answers of layer 2's oracle for truth, layer 2 is perfect and others are not."""
    model, processor = load_base(str(base_folder), "float32")
    dataset = ConversationDataset(conversations)
    questions = Questions(backbone_for(model), processor, dataset, max_new_tokens=4)
    oracle = StageSpec(0, 1 / 16, "oracle", {"layers": [2]})
    plugin = Plugin.for_model(PluginSpec([oracle]), model).eval()
    inputs = questions.prepare(questions.first(8))["inputs"]
    with attach(model, plugin), torch.no_grad():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=4, pad_token_id=0)
    prompt = inputs["input_ids"].shape[1]
    said = processor.tokenizer.batch_decode(tokens[:, prompt:], skip_special_tokens=True)
    dataset.samples[:] = [replace(s, answer=a) for s, a in zip(dataset.samples, said)]
    scores = guide_scores(questions, 1 / 16, range(LAYERS))
    accuracies = [score.accuracy for score in scores]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] < 1
    assert {score.layer: score.accuracy for score in scores}[2] == 1


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--layers", "4"], "--layers names 4, but the decoder has 4 layers"),
        (["--budget", "17"], "budget of 17"),
        (["--data", "gone.json"], "gone.json"),
        (["--limit", "-1"], "--limit is -1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--plot", "/proc/no.png"], "--plot is '/proc/no.png', but nothing can be written"),
    ],
)
def test_bad_input_is_told(more, complaint, base_folder, conversations, capsys, tmp_path):
    arguments = command(base_folder, conversations, "--plot", str(tmp_path / "no.png"), *more)
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
