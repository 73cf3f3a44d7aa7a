"""Two processes with half a batch each see the loss and gradient of one with the whole batch."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from torch import Tensor

from rcp.choosing.tokens import IGNORED
from rcp.objectives.losses import Reduce, budget_loss, mean_kept_ratio, repair_loss, task_loss
from rcp.objectives.plackett_luce import policy_loss
from rcp.training.distributed import all_reduce_sum

pytest_plugins = ["tests.training_fixtures"]
LAYERS, DEPTH = [1, 3], 5
ROOT = Path(__file__).parent.parent


def whole_batch() -> dict[str, Tensor]:
    """Five samples; the last two have no answer token, the last no image."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.full((5, 4), IGNORED)
    labels[0, 1:], labels[1, 3], labels[2, 2:] = torch.tensor([1, 2, 3]), 4, torch.tensor([5, 0])
    valid = torch.ones(5, 6, dtype=torch.bool)
    valid[1, 4:], valid[4] = False, False
    return {
        "features": torch.randn(5, 4, 3, generator=generator),
        "teacher": torch.randn(5, 4, 6, generator=generator) + 1,
        "labels": labels,
        "valid": valid,
        "visual": torch.randn(5, 6, 3, generator=generator),
    }


def loss_of(batch: dict[str, Tensor], weight: Tensor, reduce: Reduce | None) -> Tensor:
    """All reduced terms of a model with one (6, 3) parameter."""
    logits = batch["features"] @ weight.T
    answer = torch.zeros_like(batch["labels"], dtype=torch.bool)
    answer[:, :-1] = batch["labels"][:, 1:] != IGNORED
    kept = (batch["visual"] @ weight[0]).sigmoid()
    ratio = mean_kept_ratio([kept, kept * kept], batch["valid"], LAYERS, DEPTH, reduce=reduce)
    return (
        task_loss(logits, batch["labels"], reduce=reduce)
        + repair_loss(logits[answer], batch["teacher"][answer], reduce=reduce)
        + 7 * budget_loss(ratio, 0.3)
        + policy_loss(*draws(kept), batch["valid"].any(1), reduce=reduce)
    )


def draws(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of two draws a sample, and what they earn."""
    logs = torch.stack([scores[:, :2].sum(1), scores[:, 2:].sum(1)])
    return logs, torch.stack([scores[:, 0], 2 * scores[:, 1]])


def initial_weight() -> Tensor:
    return torch.linspace(-1, 1, 18).view(6, 3).requires_grad_()


def rank_main(rank: int, split: int, folder: str) -> None:
    """Loss and the mean over ranks of the gradient, as data-parallel training takes it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    part = slice(0, split) if rank == 0 else slice(split, None)
    weight = initial_weight()
    loss = loss_of({name: value[part] for name, value in whole_batch().items()}, weight,
                   all_reduce_sum)
    loss.backward()
    dist.all_reduce(weight.grad)
    torch.save((loss.detach(), weight.grad / 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("split", [3, 2])
def test_two_processes_equal_one(split: int, tmp_path: Path):
    """Split 3 gives the second rank no answer row at all; both splits are uneven."""
    mp.spawn(rank_main, args=(split, str(tmp_path)), nprocs=2)
    weight = initial_weight()
    loss = loss_of(whole_batch(), weight, None)
    loss.backward()
    for rank in range(2):
        theirs, gradient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs, loss.detach())
        torch.testing.assert_close(gradient, weight.grad)


def run(config: Path, folder: Path, *arguments: str) -> list[float]:
    """The losses that train.py logs, step by step."""
    command = [sys.executable, "train.py", "--config", str(config), "--run_folder", str(folder)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with (folder / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


@pytest.mark.slow
def test_train_py_with_two_processes_follows_one(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """Same global batches, no noise and no dropout: six steps of one and the same training."""
    pruner = {"inner": 8, "queries": 4, "heads": 2, "dropout": 0.0}
    values = {
        "model": {
            "base": str(base_folder),
            "plugin": {
                "stages": [{"layer": 1, "ratio": 0.25, "arguments": pruner}],
                "repair": {"layers": [3], "arguments": {"inner": 8, "side": 4, "channels": 4}},
            },
            "temperature": {"noise": 0.0},
            "optimizer": {"learning_rate": 0.001, "warmup": 0.0},  # no choice at the verge
            "max_new_tokens": 2,
        },
        "data": {"train": str(conversations), "val": str(conversations)},
        "trainer": {"max_steps": 6, "accelerator": "cpu", "log_every_n_steps": 1,
                    "enable_progress_bar": False},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "2"]
    one = ["--trainer.devices", "1", "--data.batch_size", "4"]
    losses = [run(config, tmp_path / name, *more) for name, more in (("one", one), ("two", two))]
    assert len(losses[0]) == 6 and losses[0][0] != losses[0][-1]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=0.0)
