"""Measurements of a base model: the information horizon, and the trend of its attention."""

import json

import pytest
import torch

import rcp
from rcp.__main__ import main
from rcp.choosing.tokens import IGNORED
from rcp.evaluation.studies.attention_trend import BINS, attention_trends, fitted
from rcp.evaluation.studies.horizon import horizon, information_by_layer
from tests.tiny import tiny_inputs
from tests.tiny_base import LAYERS, conversation, make_model, make_processor, write_conversations


@pytest.fixture
def base(tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    make_processor().save_pretrained(tmp_path / "base")
    data = write_conversations(tmp_path / "questions.json", [conversation(i) for i in range(5)])
    return ["--base", str(tmp_path / "base"), "--data", str(data), "--device", "cpu"]


def test_the_horizon_is_behind_the_last_layer_that_is_told_something():
    assert horizon([0.5, 0.2, 0.0, 0.1, 0.01, 0.0], 0.01) == 4
    assert horizon([0.5, 0.2], 0.01) == 2 and horizon([0.0, 0.0], 0.01) == 0


def labelled(**changes):
    inputs = tiny_inputs(**changes)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    return {"inputs": inputs, "labels": labels}


def test_information_is_what_an_answer_loses_without_the_image(tiny_llava):
    batches = [labelled(questions=(6, 9)), labelled(questions=(7,), images=(1,))]
    found = information_by_layer(tiny_llava, batches)
    assert len(found) == 6 and max(map(abs, found)) > 1e-5
    layer, lost = 2, []
    plugin = rcp.Plugin.for_model(
        rcp.PluginSpec(stages=[rcp.StageSpec(layer, 0.0, "uniform")]), tiny_llava
    )
    for batch in batches:
        for row in range(len(batch["labels"])):
            probabilities = []
            for attached in (False, True):
                handle = rcp.attach(tiny_llava, plugin, "soft") if attached else None
                logits = tiny_llava(**batch["inputs"], labels=batch["labels"], use_cache=False)
                if handle is not None:
                    handle.remove()
                told = logits.logits[row, -3:-1].double().softmax(-1)
                wanted = batch["labels"][row, -2:]
                probabilities.append(told[0, wanted[0]] * told[1, wanted[1]])
            lost.append(probabilities[0] - probabilities[1])
    assert abs(found[layer] - sum(lost) / 3) < 1e-7


def test_a_trend_that_is_exponential_is_found():
    places = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
    known = torch.rand(BINS, generator=torch.Generator().manual_seed(0)) < 0.3
    found = fitted((0.4 + 1.7 * places).exp(), known)
    assert abs(found.growth - 1.7) < 1e-9 and abs(found.scale - torch.tensor(0.4).exp()) < 1e-6
    assert fitted(places, torch.zeros(BINS, dtype=torch.bool)).growth == 0


def test_trends_are_of_each_sample_alike(tiny_llava):
    """A sample with two images weighs in each place as much per token as one with one."""
    inputs = tiny_inputs(questions=(5, 7), images=(2, 1))
    batch = {"inputs": inputs, "labels": torch.full_like(inputs["input_ids"], IGNORED)}
    found = attention_trends(tiny_llava, [batch], [1, 3])
    again = attention_trends(tiny_llava, [batch] * 2, [1, 3])
    assert list(found) == [1, 3] and found == again and found[1] != found[3]
    blind = {**batch, "inputs": tiny_inputs(questions=(5,), images=(0,))}
    assert attention_trends(tiny_llava, [blind], [1])[1].growth == 0


def test_both_are_commands(base, tmp_path, capsys):
    assert main(["horizon", *base, "--limit", "3", "--output", str(tmp_path / "h.json")]) == 0
    found = json.loads((tmp_path / "h.json").read_text())
    assert len(found["information"]) == LAYERS and 0 <= found["horizon"] <= LAYERS
    command = ["debiasing", *base, "--layers", "1", "2", "--output", str(tmp_path / "d.json")]
    assert main(command) == 0
    assert list(json.loads((tmp_path / "d.json").read_text())) == ["1", "2"]
    assert "layer 2: f(x) = " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("horizon --limit 0", "--limit is 0"),
        ("horizon --batch-size -1", "--batch-size is -1"),
        ("horizon --output /proc/h.json", "nothing can be written in '/proc'"),
        ("debiasing --layers 1 99", f"--layers names 99, but the decoder has {LAYERS} layers"),
        ("debiasing --layers -1", "--layers names -1"),
    ],
)
def test_bad_requests_are_refused(line, complaint, base, capsys):
    """None of these asks nothing: a number would come out, and mean nothing."""
    name, *more = line.split()
    assert main([name, *base, *more]) == 2
    assert complaint in capsys.readouterr().err
