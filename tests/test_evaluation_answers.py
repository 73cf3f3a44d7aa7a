"""Every answer in a file: what is in it, and how a run that was killed or shared comes to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText

import rcp
from rcp.conversations.sample import Unreadable
from rcp.evaluation import cli, comparison, part_files
from rcp.evaluation.answers import Answer, AnsweredBatch, Places
from rcp.evaluation.generation import Questions
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.evaluation.options import command, parse
from rcp.evaluation.report import samples as report_samples
from rcp.evaluation.report.samples import SAMPLES, TIMES
from rcp.evaluation.share import Share
from rcp.evaluation.unfinished import Unfinished
from tests.tiny import RCP_ARGUMENTS, randomised
from tests.tiny_base import TOKENS, conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]
ROOT = Path(__file__).parent.parent
LAYERS = (1, 3)
QUESTIONS, BATCH = 8, 3

DYING = """
import os, signal, sys
from rcp import atomic_write
left, replace = int(sys.argv[1]), os.replace
def dying(*paths):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
atomic_write.os.replace = dying
import evaluate
sys.exit(evaluate.main(sys.argv[2:]))
"""
"""evaluate.py that kills itself when it has written so many files, with one more on its way."""


@pytest.fixture(scope="module")
def made(base_folder, tmp_path_factory):
    """A plug-in of two stages, and questions; the last row has no conversation."""
    folder = tmp_path_factory.mktemp("asked")
    model = AutoModelForImageTextToText.from_pretrained(base_folder)
    kept = zip(LAYERS, (0.5, 0.25))
    stages = [rcp.StageSpec(at, ratio, "rcp", dict(RCP_ARGUMENTS)) for at, ratio in kept]
    plugin = randomised(rcp.Plugin.for_model(rcp.PluginSpec(stages), model))
    plugin.base.name_or_path = str(base_folder)
    rcp.save_plugin(plugin, folder / "plugin")
    rows = [conversation(n) for n in range(QUESTIONS)]
    write_conversations(folder / "all.json", [*rows, {"id": "no conversation"}])
    return folder


@pytest.fixture(scope="module", autouse=True)
def untimed():
    """Prefills take long to time, and no two runs agree in it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "speedups", lambda _, methods, *__: [1.0] * len(methods))
        yield


def arguments(made, output, *more):
    return [
        "--plugin", str(made / "plugin"), "--data", str(made / "all.json"), "--seeds", "2",
        "--batch-size", str(BATCH), "--max-new-tokens", "2", "--device", "cpu",
        "--output", str(output), *more,
    ]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The results of a run that nobody disturbed, and its report."""
    output = tmp_path_factory.mktemp("whole") / "rows.json"
    report = cli.run(arguments(made, output))
    assert sorted(os.listdir(output.parent)) == [
        "rows.json", "rows.samples.parquet", "rows.times.parquet",
    ]
    return output, report


def answers_in(output):
    return output.with_name("rows.samples.parquet").read_bytes()


def started(made, output, *before, **environment):
    """A process that evaluates, one thread of it."""
    words = [sys.executable, *before, *arguments(made, output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def counted(monkeypatch):
    """How many questions are asked of the contestants of a round, batch by batch."""
    asked = []
    answered = Questions._answered

    def counting(self, numbers, *rest):
        asked.append(len(numbers))
        return answered(self, numbers, *rest)

    monkeypatch.setattr(Questions, "_answered", counting)
    return asked


def test_there_is_a_row_for_every_answer(whole):
    output, report = whole
    table = pq.read_table(output.with_name("rows.samples.parquet"))
    assert table.schema.remove_metadata() == SAMPLES
    keys = list(zip(*(table[name].to_pylist() for name in ("contestant", "seed", "index"))))
    expected = [
        (row.method, seed, index)
        for row in report.rows for seed in range(row.seeds) for index in range(QUESTIONS)
    ]
    assert keys == expected and {"full", "rcp", "blank_image", "random"} <= {k[0] for k in keys}
    times = pq.read_table(output.with_name("rows.times.parquet"))
    assert times.schema.remove_metadata() == TIMES and times.num_rows == table.num_rows
    assert min(times["milliseconds"].to_pylist()) > 0


def test_a_row_says_what_was_asked_and_what_it_was_worth(whole):
    output, report = whole
    rows = pq.read_table(output.with_name("rows.samples.parquet")).to_pylist()
    second = rows[1]
    assert second["id"] == "sample-1" and second["image"] == ["images/1.png"]
    assert second["question"] == "how many ?" and second["type"] == "counting"
    assert second["references"] == ["two"] and second["visual_tokens"] == TOKENS
    for row in report.rows:
        own = [one for one in rows if one["contestant"] == row.method]
        assert np.mean([one["score"] for one in own]) == pytest.approx(row.accuracy, abs=1e-6)
        for one in own:
            right = one["answer"].strip().lower() == one["references"][0]
            assert one["score"] == float(right)


def test_what_survives_is_nested_and_as_counted(whole):
    output, report = whole
    rows = pq.read_table(output.with_name("rows.samples.parquet")).to_pylist()
    for row in rows:
        if row["contestant"] in ("full", "blank_image", "downsampled_input"):
            assert row["layers"] == [] and row["kept"] == []
        if row["contestant"] in ("rcp", "random", "rcp_blind"):
            assert row["layers"] == list(LAYERS)
            first, second = row["kept"]
            assert len(first) == TOKENS // 2 and len(second) == TOKENS // 4
            assert set(second) < set(first) <= set(range(TOKENS)) and first == sorted(first)
    kept = {tuple(map(tuple, row["kept"])) for row in rows if row["contestant"] == "rcp"}
    assert len(kept) > 1, "a constant choice would make this vacuous"


def test_places_are_with_the_full_model(whole):
    output, _ = whole
    rows = pq.read_table(output.with_name("rows.samples.parquet")).to_pylist()
    centres = [-0.75, -0.25, 0.25, 0.75]
    for row in rows:
        if row["contestant"] == "full":
            assert row["places"] == [[y, x] for y in centres for x in centres]
            assert row["image_index"] == [0] * TOKENS
        else:
            assert row["places"] is None and row["image_index"] is None


def test_the_files_say_how_they_were_made(whole, made, base_folder):
    output, report = whole
    metadata = pq.read_schema(output.with_name("rows.samples.parquet")).metadata
    said = {key.decode(): value.decode() for key, value in metadata.items()}
    assert said["command"].startswith(f"evaluate.py --plugin {made}/plugin --data {made}/all.json")
    assert "--output" not in said["command"] and "--seeds 2" in said["command"]
    assert said["data"] == f"{made}/all.json" and said["image_folder"] == str(made)
    assert json.loads(said["center_crop"]) is True  # 20 x 24 pixels are cropped to 20 x 20
    assert said["base"] == str(base_folder)
    assert json.loads(said["versions"])["torch"] == torch.__version__
    assert json.loads(said["budgets"])["rcp"] == {
        "mean_tokens": report.rows[1].mean_tokens, "entering_tokens": TOKENS,
    }


def test_what_was_answered_before_a_kill_is_not_asked_again(made, whole, tmp_path, counted):
    """The fingerprint and four files of answers are there, a fifth was about to be."""
    output = tmp_path / "rows.json"
    process = started(made, output, "-c", DYING, "5")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["rows.partial"]
    parts = sorted(path.name for path in (tmp_path / "rows.partial").glob("*.parquet"))
    assert parts == ["controls-000000.parquet", *(f"methods-00000{n}.parquet" for n in range(3))]
    cli.run(arguments(made, output))
    assert counted == [3, 2]
    assert answers_in(output) == answers_in(whole[0])
    assert not (tmp_path / "rows.partial").exists()


def test_two_processes_come_to_the_same_answers(made, whole, tmp_path):
    output = tmp_path / "rows.json"
    processes = [
        started(made, output, "evaluate.py", RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "rcp" in said[0][0] and said[1][0] == ""
    assert answers_in(output) == answers_in(whole[0])
    assert json.loads(output.read_text())[1]["accuracy"] == whole[1].rows[1].accuracy
    assert not (tmp_path / "rows.partial").exists()


@pytest.fixture(scope="module")
def asked(made, tmp_path_factory):
    """The folder of a run that has asked everything, and written no result."""
    output = tmp_path_factory.mktemp("asked") / "rows.json"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(
            report_samples, "write_samples", lambda *_: (_ for _ in ()).throw(MemoryError)
        )
        cli.run(arguments(made, output))
    assert os.listdir(output.parent) == ["rows.partial"]
    return output.with_name("rows.partial")


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def cut_off(asked, tmp_path):
    """Where that run goes on."""
    shutil.copytree(asked, tmp_path / "rows.partial")
    return tmp_path / "rows.json"


def test_a_process_that_comes_late_finds_what_the_others_left(made, whole, cut_off, free_port):
    """Everything is answered: the first process would be through before the other has begun."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    first = started(made, cut_off, "evaluate.py", RANK="0", **meeting)
    while not cut_off.exists() and first.poll() is None:
        time.sleep(0.1)
    assert cut_off.with_name("rows.partial").is_dir() and first.poll() is None
    late = started(made, cut_off, "evaluate.py", RANK="1", **meeting)
    said = [process.communicate(timeout=300) for process in (first, late)]
    assert [first.returncode, late.returncode] == [0, 0], said
    assert answers_in(cut_off) == answers_in(whole[0])
    assert not cut_off.with_name("rows.partial").exists()


def test_without_pyarrow_there_are_rows_alone(made, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    output = tmp_path / "rows.json"
    report = cli.run(arguments(made, output))
    assert os.listdir(tmp_path) == ["rows.json"]
    assert report.rows[1].accuracy == whole[1].rows[1].accuracy
    with pytest.raises(rcp.UserError, match="--report needs pyarrow"):
        cli.run(arguments(made, tmp_path / "other.json", "--report", str(tmp_path)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(rcp.UserError, match="torchrun needs pyarrow"):
        cli.run(arguments(made, tmp_path / "other.json"))


def test_a_run_cut_off_at_its_end_only_writes(made, whole, cut_off, counted):
    cli.run(arguments(made, cut_off))
    assert counted == [] and answers_in(cut_off) == answers_in(whole[0])
    rows, expected = (json.loads(path.read_text()) for path in (cut_off, whole[0]))
    assert rows == expected and rows[0]["unreadable"] == ["no conversation"]


def other_plugin(made, folder):
    shutil.copytree(made / "plugin", folder / "plugin")
    plugin = rcp.load_plugin(folder / "plugin")
    for parameter in plugin.parameters():
        parameter.data.add_(0.1)
    rcp.save_plugin(plugin, folder / "other")
    return ["--plugin", str(folder / "other")]


def other_data(made, folder):
    rows = [conversation(n, id=f"another-{n}") for n in range(QUESTIONS)]
    return ["--data", str(write_conversations(folder / "data" / "all.json", rows))]


@pytest.mark.parametrize(
    "change, named",
    [
        (other_plugin, "plug-ins"),
        (other_data, "data"),
        (lambda *_: ["--batch-size", "4"], "batch size"),
        (lambda *_: ["--max-new-tokens", "3"], "longest answer"),
        (lambda *_: ["--limit", "5"], "limit"),
        (lambda *_: ["--no-controls"], "controls"),
        (lambda *_: ["--dtype", "bfloat16"], "precision"),
    ],
)
def test_answers_to_anything_else_are_refused_by_name(made, cut_off, tmp_path, change, named):
    before = sorted(os.listdir(tmp_path / "rows.partial"))
    with pytest.raises(rcp.UserError, match=rf"not finished, whose (.* )?{named} .*--output"):
        cli.run(arguments(made, cut_off, *change(made, tmp_path)))
    assert sorted(os.listdir(tmp_path / "rows.partial")) == before and not cut_off.exists()


def test_a_folder_without_an_answer_stands_in_nobodys_way(made, tmp_path):
    folder = tmp_path / "rows.partial"
    Unfinished(folder, {"data": "others"}, Share())
    Unfinished(folder, {"data": "mine"}, Share())
    assert json.loads((folder / "asked.json").read_text()) == {"data": "mine"}


def test_answers_to_unknown_questions_are_refused(tmp_path):
    folder = tmp_path / "rows.partial"
    folder.mkdir()
    part_files.write(AnsweredBatch([[]], []), folder / "methods-000000.parquet")
    with pytest.raises(rcp.UserError, match="asked.json' is damaged.*Remove the folder"):
        Unfinished(folder, {"data": "mine"}, Share())


def test_a_part_comes_back_as_it_was(tmp_path):
    kept = tuple(np.array(stage, np.int32) for stage in ([0, 2, 3], []))
    places = Places(np.array([0, 1, 1, 1]), np.array([[0.5, np.nan]] * 4, np.float32))
    nowhere = Places(np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    full = [
        Answer(4, "réd\n", Occupancy(7, 4), 12.5, 0.25, places),
        Answer(6, "", Occupancy(7, 0), 12.5, 0.25, nowhere),
    ]
    pruned = [Answer(4, "two", Occupancy(7, 4, (1, 3), kept), 1 / 3, 1e-3)]
    fault = Unreadable("A line that cannot be read.", "five", 5)
    part_files.write(AnsweredBatch([full, pruned, []], [fault]), tmp_path / "part.parquet")
    back = part_files.read(tmp_path / "part.parquet")
    assert repr(back.answers) == repr([full, pruned, []])
    assert [(str(f), f.id, f.row) for f in back.faults] == [(str(fault), "five", 5)]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def nothing(path):
    path.write_bytes(b"")


def of_other_columns(path):
    pq.write_table(pq.read_table(path).drop_columns(["kept"]), path)


def of_too_few_contestants(path):
    table = pq.read_table(path)
    few = {**table.schema.metadata, b"contestants": b"1"}
    pq.write_table(table.replace_schema_metadata(few), path)


def without_metadata(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


@pytest.mark.parametrize(
    "damage", [truncated, nothing, of_other_columns, of_too_few_contestants, without_metadata]
)
def test_a_damaged_part_is_refused(tmp_path, damage):
    path = tmp_path / "part.parquet"
    answer = Answer(0, "red", Occupancy(7, 4), 1.0, 1.0)
    part_files.write(AnsweredBatch([[answer], [answer]], []), path)
    damage(path)
    with pytest.raises(rcp.UserError, match="part.parquet' is damaged.*Remove that file"):
        part_files.read(path)


def test_a_share_is_every_so_many_th():
    shares = [Share(rank, 3) for rank in range(3)]
    assert [share.of(range(8)) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [share.first for share in shares] == [True, False, False]
    assert Share.of_environment({}) == Share() and Share().of(range(4)) == [0, 1, 2, 3]
    said = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert Share.of_environment(said) == Share(5, 8, 1)


@pytest.mark.parametrize("rank, ranks", [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_a_rank_that_cannot_be_is_refused(rank, ranks):
    with pytest.raises(rcp.UserError, match="RANK of its own below WORLD_SIZE"):
        Share.of_environment({"RANK": rank, "WORLD_SIZE": ranks})


def test_the_command_is_what_asks_for_the_same(made):
    words = arguments(made, "elsewhere.json", "--no-controls", "--compare", "a=b", "c=d e")
    options = parse([*words, "--import", "one.py", "--import", "two.py"])
    found = command(options)
    assert found == (
        f"evaluate.py --plugin {made}/plugin --compare a=b 'c=d e' --import one.py --import two.py "
        f"--data {made}/all.json --batch-size 3 --max-new-tokens 2 --seeds 2 --no-controls "
        "--device cpu"
    )
