"""The parts of `python -m benchmarks.gpu` one by one: what they count, compare and read."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from benchmarks.gpu import device_usage, entrants, parity, recipe, run_log, speed, training_7b
from benchmarks.gpu.counting import operations
from benchmarks.gpu.measuring import Figures
from benchmarks.gpu.shape import PATCH, SMALL, TEXT, prompts, random_model
from benchmarks.gpu.stopwatch import Stopwatch, Times
from benchmarks.gpu.subjects import Subject, subjects
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.pruners import PRUNERS
from tests.decoding import REFERENCES
from tests.families import FAMILIES
from tests.test_methods import batch, model, plugin
from tests.tiny_base import make_processor


def test_every_method_and_every_family_is_compared():
    names = [subject.name for subject in subjects()]
    assert len(set(names)) == len(names)
    assert {name.split(" at ")[0] for name in names if " at " in name} == set(PRUNERS.names())
    pairs = {f"{family}: {reference}" for family in FAMILIES for reference in REFERENCES}
    assert pairs < set(names)


def one_subject() -> Subject:
    return Subject("rcp at 1, 3", model(), plugin("rcp", (1, 3)), batch())


def test_the_cpu_agrees_with_itself_and_bf16_nearly():
    exact, rounded = parity.rows_of(one_subject(), "cpu")
    assert all(exact[mode] == 0 for mode in parity.MODES) and exact["others"] == 0 < exact["kept"]
    assert all(0 < rounded[mode] < 0.1 for mode in parity.MODES)
    assert not parity.is_wrong(exact) and not parity.is_wrong(rounded)


def test_a_subject_that_is_off_or_fails_is_counted(monkeypatch: pytest.MonkeyPatch):
    subject = one_subject()
    run = parity.Side.run

    def off(side: parity.Side, mode: str, plan: Any = None) -> Any:
        logits, trace = run(side, mode, plan)
        replayed = plan is not None and mode == "soft"
        return logits * (1.01 if replayed else 1.0), trace

    monkeypatch.setattr(parity.Side, "run", off)
    rows = parity.rows_of(subject, "cpu")
    assert [parity.is_wrong(row) for row in rows] == [True, False]
    rows += parity.rows_of(subject, "nowhere")
    assert "nowhere" in rows[-1]["error"]
    totals = parity.totals(rows)
    assert totals["wrong"] == 2 and totals["largest error fp32"] == pytest.approx(0.01, rel=1e-3)


def test_usage_is_the_most_that_came_to_be_in_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_usage, "PAUSE", 0.001)
    for readings, peak in (([100, 130, 170, 120], 70), ([None, None], None)):
        left = list(readings)
        last = readings[-1]
        with device_usage.DeviceUsage(lambda: left.pop(0) if left else last) as usage:
            while left:
                time.sleep(0.001)
        assert usage.peak == peak


def test_a_log_tells_losses_times_and_memory(tmp_path: Path):
    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    for step, loss in enumerate([8.0, 7.0, 6.0, 5.0, 4.0]):
        logger.log_metrics({"train/loss": loss, run_log.RESERVED: 100.0 + step}, step)
    logger.finalize("success")
    log = run_log.read_log(tmp_path)
    assert list(log.losses) == [8.0, 7.0, 6.0, 5.0, 4.0] and log.reserved == 104
    assert log.ends == (7.0, 5.0) and sorted(log.times) == log.times and len(log.times) == 5
    assert run_log.RunLog([], [10.0, 13.0, 15.0, 19.0], None).seconds_per_step == 3.0


def test_the_batch_has_the_text_that_the_plan_counts(tmp_path: Path):
    dataset = ConversationDataset(recipe.write_batch(tmp_path))
    assert len(dataset) == recipe.BATCH
    collate = ConversationCollator(make_processor(SMALL.side, PATCH), 10_000, with_answers=True)
    inputs = collate([dataset[number] for number in range(recipe.BATCH)])["inputs"]
    assert inputs["attention_mask"].sum(1).tolist() == [SMALL.visual_tokens + TEXT] * recipe.BATCH


@pytest.mark.parametrize("change", [{}, {"last loss": 9.0}, {"resumed to step": 20},
                                    {"exported": None}])
def test_a_strategy_must_learn_go_on_and_be_exported(change: dict[str, Any]):
    row = {"steps": 20, "first loss": 8.0, "last loss": 7.0, "samples/s": 1.0, "exported": True,
           "resumed to step": 20 + training_7b.MORE, "generated": 4} | change
    row = {name: value for name, value in row.items() if value is not None}
    assert training_7b.is_wrong(row) == bool(change)
    assert not training_7b.is_wrong({"skipped": "no DeepSpeed"})


def test_memory_stands_beside_the_plan():
    log = run_log.RunLog([2.0, 1.0], [0.0, 4.0], reserved=3 * training_7b.GIB)
    found = training_7b._figures(log, 3.8, 4 * training_7b.GIB)
    assert found["samples/s"] == 2.0 and found["reserved GiB"] == 3.0
    assert found["plan's error"] == pytest.approx(-0.05)
    assert "device GiB" not in training_7b._figures(log, 3.8, None)


def test_operations_are_counted_without_views():
    value = torch.ones(3, 4)
    assert operations(lambda: value.t()[0].unsqueeze(0)) == 0
    assert operations(lambda: (value @ value.t()).relu()) == 2


@pytest.fixture(scope="module")
def small() -> Any:
    return random_model(SMALL, "cpu", torch.float32)


def test_speed_is_of_what_the_plan_says(small: Any, tmp_path: Path):
    """Cache and FLOPs as predicted, operations as many as there are."""
    found = [one for one in speed.entrants_for(small) if one.name in (entrants.FULL, entrants.RCP)]
    setting = speed.Setting((1,), 1, 1)
    full, rcp = speed.measured(small, SMALL, found, 1, setting, "cpu")
    for row in (full, rcp):
        assert row["KV MiB"] == row["KV MiB predicted"]
        assert min(row["prefill ms"], row["decode ms"]) > 0
    assert full["efficiency"] == 1.0 and rcp["predicted"] > 1.2
    assert rcp["KV MiB"] < 0.75 * full["KV MiB"]
    assert rcp["prefill operations"] > full["prefill operations"] > full["decode operations"] > 0
    parity_ = speed.parity(small, SMALL, found[1].plugin, "cpu")
    assert parity_["parity"] < 1e-5 < 1e-2 < parity_["effect"]


def test_a_stopwatch_keeps_every_repetition(small: Any):
    watch = Stopwatch(small, prompts(SMALL, 2, "cpu", torch.float32), "cpu", steps=2)
    times = Times()
    for _ in range(2):
        watch.time(times)
    assert len(times.prefill) == 2 and len(times.decode) == 4 and times.peak is None
    columns = SMALL.visual_tokens + TEXT + 1
    assert times.cached == 2 * SMALL.layers * 2 * columns * SMALL.width * 4


def test_figures_say_what_was_measured_last(tmp_path: Path):
    figures = Figures(tmp_path)
    figures.add({"a": 1}, fast=1)
    figures.add(fast=2)
    assert (figures.main, figures.rows) == ({"fast": 2}, [{"a": 1}])
