"""The tiny benchmark: its commands, what it skips, what it writes. Nothing is trained here."""

import json
from dataclasses import replace

import pytest
import yaml

from benchmarks import steps as steps_module
from benchmarks import tiny
from rcp.evaluation.comparison import Report
from rcp.evaluation.report.rows import ResultRow

FULL = ResultRow("full", 0.9, 0.0, {"counting": 0.9}, 1.0, 144.0, 144.0, 2e9, 2048, 1.0, 1, 40)
RCP = replace(FULL, method="rcp", accuracy=0.88, mean_tokens=16.0, seeds=2)


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Stand-ins for the scripts that leave what the real ones leave; returns their commands."""
    found = []

    def script(name, *arguments):
        found.append([name, *arguments])
        if name == "export.py":
            (tmp_path / arguments[-1]).mkdir()
        else:
            run = tmp_path / arguments[arguments.index("--run_folder") + 1]
            run.mkdir(parents=True, exist_ok=True)
            (run / "last.ckpt").touch()

    def evaluation(arguments):
        found.append(["evaluate.py", *arguments])
        return Report([FULL, replace(FULL, method="blank_image"), RCP], ["measured so"])

    monkeypatch.setattr(steps_module, "run_script", script)
    monkeypatch.setattr(steps_module.cli, "run", evaluation)
    return found


@pytest.fixture
def run(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "tiny.json"
    fixed = ["--runs", str(runs), "--output", str(output), "--data", "questions"]
    return lambda *more: tiny.main([*fixed, "--seeds", "0", "1", *more])


def named(steps, script):
    return [step for step in steps if step[0] == script]


def test_every_seed_is_trained_and_all_meet_in_one_evaluation(steps, run, tmp_path):
    assert run() == 0
    trained = named(steps, "train.py")
    assert len(trained) == 2 * 3 and len(named(steps, "export.py")) == 2 * 3
    assert [step[step.index("--seed_everything") + 1] for step in trained] == list("010010")
    controls = [step for step in trained if "--model.plugin.stages" in step]
    changes = tiny.random_drops(tiny.CONFIGS / "rcp_tiny.yaml")
    assert len(controls) == 2 and controls[0][-len(changes):] == changes
    first, second = named(steps, "evaluate.py")
    plugins = [str(tmp_path / f"runs/rcp_tiny/seed{seed}/plugin") for seed in (0, 1)]
    assert first[1:4] == ["--plugin", *plugins]
    assert f"random_repair={tmp_path}/runs/rcp_tiny/random_repair/plugin" in first
    assert all("rcp_tiny_n18" in second[position] for position in (2, 3))


def test_the_random_control_keeps_the_schedule_and_the_steps_end_to_end():
    changes = tiny.random_drops(tiny.CONFIGS / "rcp_tiny.yaml")
    given = dict(zip(changes[::2], changes[1::2]))
    found = json.loads(given["--model.plugin.stages"])
    assert {stage["method"] for stage in found} == {"random"}
    assert given["--model.guide"] == "null", "random tokens have nothing to learn"
    assert given["--trainer.max_steps"] == "250"
    config = yaml.safe_load((tiny.CONFIGS / "rcp_tiny.yaml").read_text())
    wanted = config["model"]["plugin"]["stages"]
    assert [(s["layer"], s["ratio"]) for s in found] == [(s["layer"], s["ratio"]) for s in wanted]
    assert wanted[0]["method"] == "rcp"


def test_what_is_written(steps, run, tmp_path):
    assert run() == 0
    rows = json.loads((tmp_path / "tiny.json").read_text())
    assert [row["method"] for row in rows] == ["full", "blank_image", "rcp", "rcp"]
    page = (tmp_path / "tiny.md").read_text()
    assert page.count("| rcp |") == 4 and page.count("measured so") == 2
    assert "torch 2" in page and "python -m benchmarks.tiny" in page and "threads" in page


def test_finished_steps_are_skipped(steps, run, tmp_path):
    assert run() == 0
    steps.clear()
    assert run() == 0 and steps == []
    (tmp_path / "runs" / "rcp_tiny" / "report.json").unlink()
    assert run() == 0
    assert [step[0] for step in steps] == ["evaluate.py"]


def test_a_training_that_was_cut_off_goes_on(steps, run, tmp_path):
    checkpoint = tmp_path / "runs" / "rcp_tiny" / "seed1" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert run() == 0
    resumed = [step for step in named(steps, "train.py") if "--ckpt_path" in step]
    assert [step[-1] for step in resumed] == [str(checkpoint)]


def test_a_training_without_a_checkpoint_starts_afresh(steps, run, tmp_path):
    config = tmp_path / "runs" / "rcp_tiny" / "seed1" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.touch()
    assert run() == 0
    assert not config.exists()  # or train.py would refuse the folder


def test_a_failing_step_stops_the_benchmark(monkeypatch, run, tmp_path):
    monkeypatch.setattr(steps_module.sys, "executable", "false")
    assert run() == 1
    assert not (tmp_path / "tiny.json").exists()


def test_a_damaged_report_is_told(steps, run, tmp_path, capsys):
    assert run() == 0
    report = tmp_path / "runs" / "rcp_tiny" / "report.json"
    report.write_text(report.read_text()[:50])
    assert run() == 2
    assert f"'{report}' is damaged" in capsys.readouterr().err
