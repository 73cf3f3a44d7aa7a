"""Shift between full and pruned answer rows: against the loss, against sums by hand, end to end."""

import json
from pathlib import Path

import pytest
import torch

import rcp
from rcp.__main__ import main
from rcp.base_model.loading import load_base
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.evaluation.metrics.shift import DistributionShift, GapWithLoss, SinkSurvival
from rcp.evaluation.studies.diagnosis import diagnose
from rcp.objectives.losses import repair_loss
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, randomised
from tests.tiny_base import LAYERS

pytest_plugins = ["tests.training_fixtures"]


def test_gaps_are_those_of_the_repair_loss_over_all_batches():
    full, pruned = torch.randn(2, 10, 6) * 2 + 1, torch.randn(2, 10, 6)
    metric = DistributionShift([3, 5], 6)
    for part in (slice(0, 3), slice(3, 10)):
        metric.update(*({3: x[0, part], 5: x[1, part]} for x in (full, pruned)))
    found = metric.compute()
    for row in (0, 1):
        expected = repair_loss(pruned[row], full[row], variance_weight=3.0)
        actual = found["mean_gap"][row] + 3.0 * found["variance_gap"][row]
        assert actual.item() == pytest.approx(expected.item(), rel=1e-4)
        expected = repair_loss(pruned[row], full[row], variance_weight=1.0, form="w2")
        assert found["w2"][row].item() == pytest.approx(expected.item(), rel=1e-4)


def test_correlation_is_pearsons():
    distance, lost = torch.rand(9, 2), torch.tensor([1, 0, 0, -1, 1, 0, 1, 0, 0])
    metric = GapWithLoss(2)
    metric.update(distance[:4], lost[:4])
    metric.update(distance[4:], lost[4:])
    for layer in (0, 1):
        pair = torch.stack([distance[:, layer], lost.float()])
        assert metric.compute()[layer].item() == pytest.approx(
            torch.corrcoef(pair)[0, 1].item(), abs=1e-5
        )
    still = GapWithLoss(1)
    still.update(torch.rand(3, 1), torch.zeros(3))
    assert still.compute().item() == 0


def test_sinks_are_counted():
    metric = SinkSurvival(2)
    kept = torch.tensor([[True, True, False, False]])
    metric.update(1, kept, torch.tensor([[True, False, True, True]]))
    assert metric.compute()["survivors_that_are_sinks"].tolist() == [0, 0.5]
    assert metric.compute()["sinks_that_survive"].tolist() == [0, pytest.approx(1 / 3)]


def plugin_for(model, repair: bool = True, ratio: float = 0.25) -> rcp.Plugin:
    adapter = rcp.RepairSpec([2], arguments=FILM_ARGUMENTS) if repair else None
    spec = rcp.PluginSpec([rcp.StageSpec(1, ratio, "rcp", RCP_ARGUMENTS)], adapter)
    return randomised(rcp.Plugin.for_model(spec, model))


def test_nothing_moves_before_the_stage_and_repair_only_after_it(
    base_folder: Path, conversations: Path
):
    model, processor = load_base(str(base_folder), "float32")
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(processor)([dataset[number] for number in range(4)])
    found = diagnose(model, plugin_for(model), [batch, batch])
    assert found["samples"] == 8 and len(found["layers"]) == LAYERS
    before, after = ([line[when]["w2"] for line in found["layers"]] for when in ("before", "after"))
    assert before[0] == after[0] == pytest.approx(0, abs=1e-5)
    assert before[1] > 1e-4 and before[1] == after[1] and before[2] != after[2]
    kept_all = diagnose(model, plugin_for(model, repair=False, ratio=1.0), [batch])
    assert all(line["after"]["w2"] < 1e-5 for line in kept_all["layers"])


def test_the_command_writes_what_it_prints(
    base_folder: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, _ = load_base(str(base_folder), "float32")
    rcp.save_plugin(plugin_for(model), tmp_path / "plugin")
    given = ["--plugin", str(tmp_path / "plugin"), "--data", str(conversations)]
    output = tmp_path / "out" / "found.json"
    assert main(["diagnose", *given, "--limit", "5", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["samples"] == 5
    assert "correlation with loss" in capsys.readouterr().out
    assert main(["diagnose", *given, "--limit", "0"]) == 2
    assert "--limit is 0" in capsys.readouterr().err
