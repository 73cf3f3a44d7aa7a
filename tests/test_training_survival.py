"""Runs that are killed, told to stop, or fed what makes the loss explode."""

import copy
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

import rcp
from rcp.errors import StoppedTogether
from rcp.training.run import survival
from rcp.training.run.folder import callbacks
from rcp.training.run.survival import SIGNALS, AtomicCheckpointIO
from tests.full_disk import full_disk
from tests.test_training_plugin import data, training

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

STEPS, EVERY, VALIDATE_EVERY = 6, 2, 3


def fit(
    base: Path,
    conversations: Path,
    folder: Path,
    *more: pl.Callback,
    left_out: int = 5,
    max_steps: int = STEPS,
    **settings: Any,
) -> Any:
    """Train ``STEPS`` steps into ``folder``, from its last checkpoint where there is one."""
    torch.manual_seed(0)
    module, last = training(base), folder / "last.ckpt"
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=VALIDATE_EVERY,
        num_sanity_val_steps=0,
        callbacks=[*callbacks(folder, EVERY, left_out), *more],
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    batches = data(conversations, batch_size=2)
    trainer.fit(module, batches, ckpt_path=last if last.exists() else None, weights_only=True)
    return module


def weights(folder: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS
    return checkpoint["state_dict"]


class Do(pl.Callback):
    """Calls ``action`` at the event number ``at``; writing a checkpoint is an event, too."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.at, self.action, self.events = at, action, 0
        replace = os.replace
        survival.os.replace = lambda *paths: (self.event(), replace(*paths))  # type: ignore

    def event(self, *_: Any) -> None:
        self.events += 1
        if self.events == self.at:
            self.action()

    on_train_batch_start = on_after_backward = on_train_batch_end = event  # type: ignore
    on_validation_batch_end = on_validation_end = event  # type: ignore


def in_child(work: Callable[[], None]) -> int:
    """The exit status of a process that does ``work``; minus a signal's number if killed."""
    child = os.fork()
    if child == 0:
        status = 1
        # a forked process has lost its parent's pool of threads, and how many it makes do with,
        # which decides the order of sums, depends on when it was forked
        torch.set_num_threads(1)
        # and what a shell starts in its background is born deaf to an interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(base_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The data, the final weights of a run that nothing happened to, and its number of events."""
    from tests.tiny_base import conversation, write_conversations

    folder = tmp_path_factory.mktemp("uninterrupted")
    rows = [conversation(n) for n in range(8)]
    conversations = write_conversations(folder / "data" / "all.json", rows)
    counter = folder / "events"

    def work() -> None:
        events = Do(-1, kill)
        fit(base_folder, conversations, folder / "run", events)
        counter.write_text(str(events.events))

    assert in_child(work) == 0
    return conversations, weights(folder / "run"), int(counter.read_text())


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in range(2, 20)]


@pytest.mark.parametrize("number", [0, 1, *SLOW])
def test_a_run_killed_at_any_moment_ends_like_an_uninterrupted_one(
    number: int, uninterrupted, base_folder: Path, tmp_path: Path
):
    conversations, expected, events = uninterrupted
    at = random.Random(number).randint(1, events)
    folder = tmp_path / "run"
    status = in_child(lambda: fit(base_folder, conversations, folder, Do(at, kill)) and None)
    assert status == -signal.SIGKILL, f"event {at} of {events}"
    assert in_child(lambda: fit(base_folder, conversations, folder) and None) == 0
    found = weights(folder)
    assert all(torch.equal(found[name], value) for name, value in expected.items()), at
    assert not [n for n in found if n not in expected]


@pytest.mark.parametrize(("number", "status"), SIGNALS.items())
def test_a_signal_saves_and_loses_no_step(
    number: int, status: int, uninterrupted, base_folder: Path, tmp_path: Path
):
    conversations, expected, _ = uninterrupted
    folder = tmp_path / "run"

    def stopped() -> None:
        fit(base_folder, conversations, folder, Do(1, lambda: os.kill(os.getpid(), number)))

    assert in_child(stopped) == status
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1  # the batch under way is finished
    assert in_child(lambda: fit(base_folder, conversations, folder) and None) == 0
    found = weights(folder)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_second_interrupt_ends_a_run_at_once(uninterrupted, base_folder: Path, tmp_path: Path):
    conversations, _, _ = uninterrupted

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            time.sleep(0.01)  # until the first one has been noted: two at once are one
        os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    stop = partial(Do, 1, interrupt_twice)
    assert in_child(lambda: fit(base_folder, conversations, folder, stop()) and None) == 1
    assert not (folder / "last.ckpt").exists()


class GoneAtTeardown(SingleDeviceStrategy):
    """Takes the weights away when it is torn down, as strategies of GPUs move them to the CPU."""

    def teardown(self) -> None:
        training: Any = self.lightning_module
        super().teardown()
        training.plugin.to("meta")


def test_the_last_checkpoint_is_written_while_the_strategy_is_up(
    uninterrupted, base_folder: Path, tmp_path: Path
):
    """The last step neither ends a validation nor is one of every second."""
    conversations, _, _ = uninterrupted
    module = fit(
        base_folder, conversations, tmp_path, strategy=GoneAtTeardown(), max_steps=STEPS - 1
    )
    assert all(value.is_meta for value in module.plugin.parameters())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS - 1
    assert not any(value.is_meta for value in checkpoint["state_dict"].values())


def test_a_run_that_its_losses_end_keeps_its_last_step(
    uninterrupted, base_folder: Path, tmp_path: Path
):
    """All processes stop after the same step, so that they can still write it together."""
    conversations, _, _ = uninterrupted
    with pytest.raises(StoppedTogether, match="not finite for 1 batches"):
        fit(
            base_folder, conversations, tmp_path, Explode({2}), left_out=0,
            strategy=GoneAtTeardown(),
        )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3 and EVERY == 2
    assert not any(value.is_meta for value in checkpoint["state_dict"].values())


def test_sigterm_between_accumulated_batches_loses_no_gradient(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    def run(name: str, at: int) -> int:
        def work() -> None:
            stop = Do(at, lambda: os.kill(os.getpid(), signal.SIGTERM))
            fit(base_folder, conversations, tmp_path / name, stop, accumulate_grad_batches=2)

        return in_child(work)

    assert run("whole", -1) == 0
    assert run("stopped", 1) == 0  # in the first of two batches
    checkpoint = torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert run("stopped", -1) == 0
    found = weights(tmp_path / "stopped")
    assert all(torch.equal(found[name], value)
               for name, value in weights(tmp_path / "whole").items())


class KeepFirst(pl.Callback):
    """Copies the first last.ckpt of a run."""

    def __init__(self, folder: Path) -> None:
        self.last, self.kept = folder / "last.ckpt", folder / "kept.ckpt"

    def on_train_batch_start(self, *_: Any) -> None:
        if self.last.exists() and not self.kept.exists():
            shutil.copy(self.last, self.kept)


def test_a_validation_between_accumulated_batches_loses_no_gradient(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """It comes after three batches, and a step takes two."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    fit(base_folder, conversations, whole, KeepFirst(whole), accumulate_grad_batches=2)
    resumed.mkdir()
    shutil.copy(whole / "kept.ckpt", resumed / "last.ckpt")
    fit(base_folder, conversations, resumed, accumulate_grad_batches=2)
    found = weights(resumed)
    assert all(torch.equal(found[name], value) for name, value in weights(whole).items())


def test_a_failed_write_leaves_the_checkpoint_before_it(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": (n for n in range(3))}, path)
    with full_disk(), pytest.raises(rcp.UserError, match="too large.*--resume true"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(5000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Explode(pl.Callback):
    """Poisons the plug-in's features in the given steps, so that loss and gradients are NaN.

    Of the batches accumulated for a step, in the first ``of_each`` ones.
    """

    def __init__(self, steps: set[int], of_each: int = 2) -> None:
        self.steps, self.of_each = steps, of_each

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: Any, _: Any, batch: int
    ) -> None:
        place = batch % trainer.accumulate_grad_batches
        if trainer.global_step in self.steps and place < self.of_each:
            self.hook = module.plugin.repair.register_forward_hook(lambda *a: a[2] * torch.nan)

    def on_train_batch_end(self, *_: Any) -> None:
        if hasattr(self, "hook"):
            self.hook.remove()


def test_a_loss_that_is_not_finite_is_left_out(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    module = fit(base_folder, conversations, tmp_path / "run", Explode({1, 2}))
    assert all(parameter.isfinite().all() for parameter in module.plugin.parameters())
    found = json.loads((tmp_path / "run" / "non_finite.json").read_text())
    assert [len(entry["ids"]) for entry in found] == [2, 2]
    assert {name.split("-")[0] for entry in found for name in entry["ids"]} == {"sample"}


class States(pl.Callback):
    """Weights, optimiser state and learning rate after each step, by the number of steps done."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[dict[str, Tensor], dict[int, Any], float]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        (optimizer,) = trainer.optimizers
        state = copy.deepcopy(optimizer.state_dict())
        weights = {name: value.clone() for name, value in module.plugin.state_dict().items()}
        rate = state["param_groups"][0]["lr"]
        self.found[trainer.global_step] = weights, state["state"], rate


def same(one: Any, other: Any) -> bool:
    """Whether nested dictionaries hold the same tensors, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other)


@pytest.mark.parametrize("accumulated, of_each", [(1, 1), (2, 2), (2, 1)])
def test_a_step_without_a_finite_batch_moves_nothing(
    accumulated: int, of_each: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    """Momentum and weight decay included; with one finite batch among them the step is taken."""
    states = States()
    fit(base_folder, conversations, tmp_path / "run", Explode({2, 3}, of_each), states,
        accumulate_grad_batches=accumulated, gradient_clip_val=1.0)
    taken = [not all(map(same, states.found[step][:2], states.found[step + 1][:2]))
             for step in range(1, STEPS)]
    skipped = of_each == accumulated
    assert taken == [True, not skipped, not skipped, True, True]  # steps 2 to 6
    assert states.found[2][2] != states.found[3][2]  # the learning rate's schedule goes on


def test_too_many_of_them_end_the_run(base_folder: Path, conversations: Path, tmp_path: Path):
    with pytest.raises(rcp.UserError, match="not finite for 3 batches, more than the 2 .*json"):
        fit(base_folder, conversations, tmp_path / "run", Explode(set(range(6))), left_out=2)
    assert len(json.loads((tmp_path / "run" / "non_finite.json").read_text())) == 3
