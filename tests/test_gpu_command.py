"""`python -m benchmarks.gpu`: on the CPU in small, without datasets, and how its parts end."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import quickstart
from benchmarks.gpu.measuring import Figures
from benchmarks.gpu.parts import LIMIT, PARTS, Part, Places, longest
from benchmarks.gpu.recipe import FEW
from benchmarks.gpu.report import summary, text, write
from benchmarks.gpu.running import LOG, run_parts
from rcp.errors import UserError

ROOT = Path(__file__).parent.parent
ABSENT = "import sys\nfor name in ('datasets', 'pyarrow'):\n    sys.modules[name] = None\n"
"""As sitecustomize.py, in every process: what a bare GPU machine does not have."""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "out", tmp_path, tiny=False)


def running(name: str, code: str, **changes: object) -> Part:
    return replace(Part(name, "about it", 60, ("-c", code)), **changes)  # type: ignore[arg-type]


def test_a_part_that_fails_or_hangs_stops_no_other(places: Places):
    child = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    hangs = f"import subprocess, sys; subprocess.run({child})"
    parts = [
        running("hangs", f"print('so far', flush=True); {hangs}", seconds=2),
        running("fails", "raise SystemExit('this is why')"),
        running("absent", "", module="tests.no_such_module"),
        running("works", "print('7 of 7')", alone=True),
    ]
    outcomes = run_parts(parts, places)
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["timed out", "failed", "skipped", "ok"]
    cells = summary(outcomes, places)
    assert [row[-1] for row in cells[1:]] == ["so far", "this is why", "", "7 of 7"]
    assert text(cells).splitlines()[2].split(maxsplit=3) == ["fails", "failed", "0", "this is why"]


def test_what_ends_the_run_ends_its_parts(places: Places, monkeypatch: pytest.MonkeyPatch):
    def end(_: float) -> None:
        if (places.folder("hangs") / LOG).read_text().endswith("\n"):
            raise SystemExit

    monkeypatch.setattr("benchmarks.gpu.running.time.sleep", end)
    hangs = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(SystemExit):
        run_parts([running("hangs", hangs)], places)
    process = int((places.folder("hangs") / LOG).read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_what_runs_alone_begins_when_the_others_have_ended(places: Places):
    stamp = "import time; print(time.time()); time.sleep({}); print(time.time())"
    parts = [
        running("last", stamp.format(0), alone=True),
        *(running(name, stamp.format(1)) for name in ("one", "other")),
    ]
    run_parts(parts, places)
    times = {
        part.name: [float(line) for line in (places.folder(part.name) / LOG).open()]
        for part in parts
    }
    assert times["one"][0] < times["other"][1] and times["other"][0] < times["one"][1]
    assert times["last"][0] > max(times["one"][1], times["other"][1])


def test_figures_of_a_part_that_was_stopped_are_kept(places: Places):
    (outcome,) = run_parts([running("speed", "raise SystemExit(3)")], places)
    figures = Figures(places.folder("speed"))
    figures.add({"batch": 1, "ms": 1.23456}, fastest=1.23456)
    figures.add({"batch": 8, "error": "none"})
    target = places.output / "gpu_card.json"
    write([outcome], places, {"date": "today"}, target)
    part = json.loads(target.read_text())["parts"]["speed"]
    assert part["rows"] == figures.rows and part["main"] == {"fastest": 1.23456}
    assert part["status"] == "failed" and part["command"] == "python -c 'raise SystemExit(3)'"
    page = target.with_suffix(".md").read_text()
    assert "- date: today" in page and "| 1 | 1.235 |  |" in page and "fastest 1.235" in page


def test_a_folder_of_something_else_is_not_removed(places: Places):
    keep = places.folder("speed") / "keep"
    keep.mkdir(parents=True)
    with pytest.raises(UserError, match="not of an earlier run"):
        run_parts([running("speed", "")], places)
    assert keep.is_dir()


def test_all_parts_together_end_in_time():
    assert longest(PARTS) <= LIMIT


def test_without_a_gpu_one_sentence_says_so(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main([]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_accuracy_that_chance_does_not_explain_fails():
    cpu = {"full": 94.0, "rcp": 84.0}
    within, beyond = ({"full": 94.0, "rcp": accuracy} for accuracy in (78.0, 77.0))
    assert not quickstart.is_wrong(quickstart.compared(within, cpu, 300))
    assert quickstart.is_wrong(quickstart.compared(beyond, cpu, 300))


def tiny_run(folder: Path, *parts: str) -> dict[str, dict]:
    """What `--tiny` of ``parts`` found, run where neither datasets nor pyarrow is."""
    (folder / "absent").mkdir()
    (folder / "absent" / "sitecustomize.py").write_text(ABSENT)
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    line = ["-m", "benchmarks.gpu", "--tiny", "--output", str(folder / "out"), "--parts", *parts]
    environment = {**os.environ, "PYTHONPATH": str(folder / "absent"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *line], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=600)
    logs = "\n".join(log.read_text()[-3000:] for log in folder.glob(f"out/*/{LOG}"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before
    return json.loads((folder / "out" / "tiny.json").read_text())["parts"]


def test_the_quickstart_and_the_tests_without_datasets(tmp_path: Path):
    found = tiny_run(tmp_path, "tests", "quickstart")
    assert {part["status"] for part in found.values()} == {"ok"}
    assert 0 <= found["quickstart"]["main"]["rcp %"] <= 100
    assert "tests collected" in (tmp_path / "out" / "tests" / LOG).read_text()


@pytest.mark.slow
def test_parts_that_take_longer_without_datasets(tmp_path: Path):
    found = tiny_run(tmp_path, "parity", "base_7b", "training_7b", "speed", "compiled")
    assert {part["status"] for part in found.values()} == {"ok"}
    assert found["parity"]["main"]["wrong"] == 0
    (ddp, *_) = found["training_7b"]["rows"]
    assert ddp["steps"] == FEW and ddp["exported"] and ddp["samples/s"] > 0
    assert found["speed"]["main"]["parity"] < 1e-5 < 1e-2 < found["speed"]["main"]["effect"]
    assert len(found["compiled"]["rows"]) == 3
