"""The comparison of methods: who takes part, what is kept, what is written. Little is run."""

import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import rcp
from benchmarks import methods
from benchmarks.methods_bench import Bench, Entry
from benchmarks.methods_figure import draw
from benchmarks.methods_page import cells
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import ResultRow
from rcp.pruners import PRUNERS

FULL = ResultRow("full", 0.9, 0.0, {"counting": 0.9}, 1.0, 144.0, 144.0, 2e9, 2048, 1.0, 1, 2)


@pytest.fixture
def bench(tmp_path):
    torch.set_num_threads(1)
    return Bench(Namespace(
        runs=tmp_path / "runs", data=Path("runs/data/test"), limit=2, rounds=1,
        validation=Path("runs/data/validation"),
    ))


@pytest.fixture
def answered(monkeypatch):
    """Rows without running a model; returns who was asked."""
    asked = []

    def entry(self, table, method, contestants):
        asked.append((table, method, contestants))
        return Entry(method, replace(FULL, method=method, seeds=len(contestants)), 0.001)

    monkeypatch.setattr(Bench, "entry", entry)
    monkeypatch.setattr(Bench, "growths", lambda self: {str(at): 0.5 for at in range(24)})
    monkeypatch.setattr(Bench, "horizon", lambda self: 20)
    return asked


needs_data = pytest.mark.skipif(
    not Path("runs/data/test").is_dir(), reason="`make data` has not been run"
)


@needs_data
@pytest.mark.parametrize("table", methods.TABLES)
def test_every_method_takes_part_at_equal_tokens(bench, answered, table):
    class Newcomer(rcp.Pruner):
        """A method from one file."""

        name = "newcomer"
        paper = "a test"

        def forward(self, view):
            return view.rank.float()

    try:
        found = methods.table_of(bench, table, [])
    finally:
        PRUNERS._classes.pop("newcomer")
    named = [entry.method for entry in found]
    assert set(methods.methods()) | {"newcomer", "full", "blank_image"} <= set(named)
    assert named[0] == "full" and "rcp" not in named
    for _, method, contestants in answered:
        plugin = contestants[0].plugin
        if plugin is not None:
            entering = plugin.schedule.ratios[0] if table == "entering" else plugin.mean_ratio
            assert abs(144 * entering - 16) < 0.2, method
            assert len(contestants) == 3 or method not in ("random", "information_horizon")
    refused = {entry.method: entry.remark for entry in found if entry.row is None}
    if table == "entering":
        assert "layer 1 or later" in refused["fastv"] and "transprune" in refused
    else:
        assert not refused


@needs_data
def test_a_finished_row_is_not_computed_again(bench, monkeypatch):
    path = bench.folder / "mean" / "random.json"
    path.parent.mkdir(parents=True)
    entry = Entry("random", replace(FULL, method="random"), 0.002, "a remark")
    path.write_text(json.dumps(asdict(entry)))
    assert bench.entry("mean", "random", []) == entry
    path.write_text(json.dumps(asdict(replace(entry, row=replace(FULL, n=7)))))
    with pytest.raises(IndexError):  # of another number of questions: computed afresh
        bench.entry("mean", "random", [])


@needs_data
def test_one_row_is_measured_for_real(bench):
    plugin = bench.plugin([rcp.StageSpec(0, 1 / 9, "uniform")])
    entry = bench.entry("entering", "uniform", [Contestant("uniform", plugin)])
    assert entry.row.entering_tokens == 16 and entry.row.n == 2 and entry.selection is not None
    assert bench.entry("entering", "uniform", []) == entry


def test_what_is_drawn_and_written(tmp_path):
    entries = [Entry("full", FULL), Entry("random", replace(FULL, method="random"), 0.0123, "note"),
               Entry("fastv", None, remark="cannot be used here: why")]
    draw({"one": entries, "two": entries}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    table = tables.markdown(cells(entries))
    assert "12.3 | note" in table and "| fastv |" in table and "why" in table
