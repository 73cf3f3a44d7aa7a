"""The benchmark of two processes: what it asks of train.py, and what it says; none is run."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ddp
from rcp.evaluation.report.rows import ResultRow

ONE = ResultRow("rcp", 0.90, 0.01, {}, 0.95, 16.0, 18.0, 2e9, 2048, 3.0, 3, 40)


def test_two_processes_share_the_batches_of_one():
    one, two = (dict(zip(*[iter(ddp.spread(processes))] * 2)) for processes in (1, 2))
    for name in ("--data.batch_size", "--data.val_batch_size"):
        assert int(one[name]) == 2 * int(two[name])
    assert (one["--trainer.devices"], two["--trainer.devices"]) == ("1", "2")
    assert two["--trainer.strategy"].startswith("ddp")


@pytest.mark.parametrize("accuracy, std, said", [
    (0.905, 0.01, "0.50 points apart, within the 1.00"),
    (0.88, 0.01, "2.00 points apart, beyond the 1.00"),
    (0.91, 0.03, "1.00 points apart, within the 2.24"),
])
def test_accuracies_are_compared_in_units_of_seed_noise(accuracy: float, std: float, said: str):
    two = replace(ONE, accuracy=accuracy, accuracy_std=std)
    assert said in ddp.verdict(ONE, two)
    assert "says nothing of noise" in ddp.verdict(ONE, replace(two, seeds=1))


def test_losses_are_compared_step_by_step(tmp_path: Path):
    parts = {
        "one": ["step,train/loss\n0,2.0\n1,1.0\n1,\n2,4.0\n"],
        "two": ["step,train/loss\n0,2.0\n1,1.5\n", "step,train/loss\n1,1.1\n2,4.0\n"],  # cut off
    }
    for run, contents in parts.items():
        for number, content in enumerate(contents):
            folder = tmp_path / run / "logs" / f"version_{number}"
            folder.mkdir(parents=True)
            (folder / "metrics.csv").write_text(content)
    assert ddp.farthest(tmp_path / "one", tmp_path / "two") == pytest.approx(0.1)
