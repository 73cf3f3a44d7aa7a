"""DeepSpeed with two processes on CPUs: what it trains is what data-parallel training trains.

All trainings run one after another in a few launches of two processes, which take seconds to start.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import rcp
from rcp.training.checkpoint import read_checkpoint
from rcp.training.export import export_checkpoint
from tests.cli import RCP, settings
from tests.tiny_base import conversation, write_conversations

pytest.importorskip("deepspeed")
pytest_plugins = ["tests.training_fixtures"]
ROOT = Path(__file__).parent.parent
STEPS, KILLED_AFTER = 5, 3

DDP = "ddp_find_unused_parameters_true"  # parts stand still under a guide
SHARDING = ["deepspeed_stage_2", "deepspeed_stage_3"]
OFFLOADING = [f"{name}_offload" for name in SHARDING]

TWO_STAGES = [{"layer": at, "ratio": ratio, "arguments": RCP} for at, ratio in ((1, 0.4), (2, 0.2))]
COVIPAL = [{"layer": 0, "ratio": 0.25, "method": "covipal",
            "arguments": {"inner": 8, "blocks": 1, "heads": 2}}]
VARIANTS: dict[str, dict[str, Any]] = {
    "rcp": {},
    "guide": {
        "model.plugin.stages": TWO_STAGES,
        "model.guide": {"layer": None, "share": 0.5, "pruning_layers": [1]},
        "model.optimizer.pruners": 0.0,
    },
    "covipal": {
        "model.plugin.stages": COVIPAL,
        "model.plugin.repair": None,
        "model.guide": {"layer": 2, "share": 0.4},
        "model.retention": {"share": 0.7},
    },
    "lora": {"model.plugin.lora": {"rank": 2}},
    "uneven": {"data.train": "uneven.json", "data.val": "uneven.json", "data.batch_size": 1},
    "uneven guide": {
        "data.train": "uneven.json",
        "data.batch_size": 1,
        "model.guide": {"layer": None, "share": 0.5},
        "model.teacher_cache": "cache",
    },
    "online guide": {
        "data.train": "uneven.json",
        "data.batch_size": 1,
        "model.plugin.stages": TWO_STAGES,
        "model.guide": "online",
    },
    "policy": {
        "model.plugin.stages": TWO_STAGES,
        "model.guide": {"layer": None, "share": 0.2, "pruning_layers": [1]},
        "model.policy": {"share": 0.6, "group": 4},
    },
}
"""What differs from the settings all share. In ``uneven.json`` the last batch of an epoch is
smaller, and every other sample has no image, so that one process often has none."""

TOLD: dict[str, dict[str, Any]] = {"uneven": {"unanswered": 1}}
TRAININGS = [
    *((variant, strategy) for variant in VARIANTS for strategy in (DDP, *SHARDING)),
    *(("rcp", strategy) for strategy in OFFLOADING),
    ("online guide", "ddp"),  # no part of it stands still
]


def flags(values: dict[str, Any]) -> list[str]:
    said = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    return [part for name, value in said.items() for part in (f"--{name}", value)]


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What went wrong: the refusals of train.py, and the end of what the launcher says."""
    refusals = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    return "\n".join([*refusals, done.stderr[-4000:]])


class Runs:
    """A folder of trainings, and how they are started."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        rows = [conversation(number) for number in range(11)]
        for row in rows[::2]:
            del row["image"]
            turns: Any = row["conversations"]
            turns[0]["value"] = turns[0]["value"].removeprefix("<image>\n")
        write_conversations(folder / "uneven.json", rows)
        even = write_conversations(folder / "even.json", [conversation(n) for n in range(8)])
        values = settings(base, even, folder)
        values["data"]["batch_size"] = 2  # two steps an epoch
        values["trainer"] |= {"max_steps": STEPS, "devices": 2, "limit_val_batches": 1,
                              "check_val_every_n_epoch": 2}
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(values))

    def run(self, variant: str, strategy: str, name: str = "") -> Path:
        return self.folder / f"{name or variant}-{strategy}"

    def told(
        self, variant: str, strategy: str, name: str = "", **what: Any
    ) -> dict[str, Any]:
        """One training of the plan of :mod:`tests.many_trainings`."""
        changes = dict(VARIANTS[variant])
        for field in ("data.train", "data.val", "model.teacher_cache"):
            if field in changes:
                changes[field] = str(self.folder / changes[field])
        if "model.teacher_cache" in changes:
            changes["model.teacher_cache"] += f"-{strategy}"
        arguments = ["--config", str(self.config), "--trainer.strategy", strategy,
                     "--run_folder", str(self.run(variant, strategy, name)), *flags(changes)]
        if name:  # it will be killed, after a step that it has kept
            arguments += flags({"resume": True, "checkpoint_every": 1})
        return {"arguments": arguments, **what}

    def start(self, *plan: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Let two processes do ``plan``."""
        file = self.folder / "plan.json"
        file.write_text(json.dumps(plan))
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [sys.executable, *launch, "-m", "tests.many_trainings", str(file)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Runs:
    """All of :data:`TRAININGS`, and one of each sharding strategy that is killed and goes on."""
    made = Runs(tmp_path_factory.mktemp("runs"), base_folder)
    plans = [made.told(*training, **TOLD.get(training[0], {})) for training in TRAININGS]
    for strategy in SHARDING:
        killed = made.told("rcp", strategy, "killed", kill=KILLED_AFTER)
        done = made.start(*plans, killed)
        assert f"exitcode  : {-signal.SIGKILL}" in done.stderr, complaint(done)
        plans = [made.told("rcp", strategy, "killed")]
    done = made.start(*plans)
    assert done.returncode == 0, complaint(done)
    return made


def losses(run: Path) -> dict[int, float]:
    """The losses that a run has logged, by step, also after it went on."""
    found = {}
    for version in sorted((run / "logs").iterdir()):
        with (version / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
        found |= {int(row["step"]): float(row["train/loss"]) for row in rows}
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run / "last.ckpt")
    assert checkpoint["global_step"] == STEPS
    return checkpoint["state_dict"]


@pytest.mark.parametrize(("variant", "strategy"), [t for t in TRAININGS if t[1] != DDP])
def test_losses_are_those_of_data_parallel_training(
    variant: str, strategy: str, runs: Runs
):
    expected, found = (losses(runs.run(variant, which)) for which in (DDP, strategy))
    assert list(expected) == list(found) == list(range(STEPS))
    assert len(set(expected.values())) > 2, "nothing was learnt"
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("strategy", SHARDING)
def test_a_run_killed_in_mid_epoch_ends_like_an_uninterrupted_one(strategy: str, runs: Runs):
    expected, found = (losses(runs.run("rcp", strategy, name)) for name in ("rcp", "killed"))
    after = range(KILLED_AFTER, STEPS)  # the kill may have taken the row before it along
    assert [found[at] for at in after] == pytest.approx([expected[at] for at in after], rel=1e-6)
    assert weights(runs.run("rcp", strategy, "killed"))  # of the last step


@pytest.mark.parametrize("strategy", [*SHARDING, *OFFLOADING])
def test_each_process_holds_its_share_of_the_base_in_stage_3_only(strategy: str, runs: Runs):
    files = sorted((runs.run("rcp", strategy) / "held").iterdir())
    held = [json.loads(file.read_text()) for file in files]
    share = 2 if "stage_3" in strategy else 1
    assert [each["held"] for each in held] == [each["of"] // share for each in held] and held


@pytest.mark.parametrize(("variant", "strategy"), [t for t in TRAININGS if "ddp" not in t[1]])
def test_the_frozen_base_is_in_no_checkpoint(variant: str, strategy: str, runs: Runs):
    run = runs.run(variant, strategy)
    base = json.loads((run / "held" / "0.json").read_text())["of"]
    for checkpoint in ("last.ckpt", "best.ckpt"):
        if (run / checkpoint).exists():
            trained = sum(value.numel() for value in weights(run).values())
            # weights twice, and two moments, in shards of fp32; the files' own part is not small,
            # as the description of the base is in each, but the base would be four bytes a weight
            files = [file for file in (run / checkpoint).rglob("*.pt")]
            size = sum(file.stat().st_size for file in files)
            # under a policy each process keeps the pruners as they were, too
            most = 4 if variant == "policy" else 3
            assert files and size - 4 * 4 * trained < most * base


def test_a_plugin_is_exported_from_stage_3(runs: Runs, tmp_path: Path):
    run = runs.run("rcp", "deepspeed_stage_3")
    export_checkpoint(run / "last.ckpt", tmp_path / "plugin")
    exported, trained = rcp.load_plugin(tmp_path / "plugin").state_dict(), weights(run)
    assert {f"plugin.{name}" for name in exported} == set(trained)
    assert all(torch.equal(value, trained[f"plugin.{name}"]) for name, value in exported.items())


def test_two_nodes_train_as_the_example_says(runs: Runs, tmp_path: Path):
    """Two launchers on one machine, each with one process, meet at an address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load(runs.config.read_text()) | {"run_folder": str(tmp_path / "run")}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shared = {**os.environ, "PATH": path, "NODES": "2", "HEAD": "127.0.0.1", "PORT": str(port),
              "GPUS": "1", "STRATEGY": "deepspeed_stage_2", "OMP_NUM_THREADS": "1"}
    logs = [tmp_path / f"node{node}.log" for node in range(2)]  # a full pipe would stop a node
    launched = [
        subprocess.Popen(["bash", "examples/torchrun.sh", str(file)], cwd=ROOT,
                         env=shared | {"NODE": str(node)}, stderr=log.open("w"))
        for node, log in enumerate(logs)
    ]
    for node, log in zip(launched, logs):
        assert node.wait(timeout=300) == 0, log.read_text()[-4000:]
    assert len(losses(tmp_path / "run")) == STEPS and weights(tmp_path / "run")
