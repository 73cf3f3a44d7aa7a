"""Streams of a Hugging Face data set: shares, order, resume, samples that cannot be read."""

import os
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

import rcp
from rcp.__main__ import main
from rcp.conversations import LoadedSample
from rcp.conversations.stream import StreamedTable, TrainingStream
from rcp.conversations.table import TableDataset
from rcp.conversations.unreadable import Filling
from rcp.training.data_module import ConversationDataModule
from rcp.training.run.folder import callbacks
from rcp.training.run.survival import AtomicCheckpointIO
from tests.test_training_plugin import training
from tests.test_training_survival import in_child, kill

datasets = pytest.importorskip("datasets")
pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

ROOT = Path(__file__).parent.parent
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
    }
)


def parquet(folder: Path, *lengths: int, unreadable: tuple[str, ...] = ()) -> Path:
    """A file for each length, whose rows are called by file and number; each image is its own."""
    folder.mkdir()
    for file, length in enumerate(lengths):
        names = [f"{file}-{number}" for number in range(length)]
        images = [
            {"bytes": b"no image", "path": None} if name in unreadable
            else Image.new("RGB", (20, 24), (40 * file, 10 * number, 90))
            for number, name in enumerate(names)
        ]
        rows = {"id": names, "image": images, "question": ["how many ?"] * length,
                "answer": ["two"] * length}
        datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(folder / f"{file}.parquet")
    return folder


def named(*lengths: int) -> set[str]:
    return {f"{file}-{number}" for file, length in enumerate(lengths) for number in range(length)}


def as_batch(items: list[LoadedSample]) -> dict[str, Any]:
    """Stands in for a collator."""
    return {"ids": [item.sample.id for item in items]}


def batches(
    folder: Path, number: int, done: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1,
    seed: int = 0, held: int = 3,
) -> list[list[str]]:
    """The ids of the ``number`` batches of 2 that follow the first ``done`` ones."""
    table = StreamedTable(str(folder))
    stream = TrainingStream(table, 2, seed, partial(int, done), held, rank, ranks)
    loader = DataLoader(stream, 2, num_workers=workers, collate_fn=Filling(as_batch))
    return [batch["ids"] for batch in islice(loader, number)]


def test_a_streamed_sample_is_the_memory_mapped_one(tmp_path: Path):
    folder = str(parquet(tmp_path / "rows", 3, 2))
    table = StreamedTable(folder)
    for row, expected in zip(table.rows(), TableDataset(folder), strict=True):
        item = table.load(row)
        assert (item.sample.id, item.sample.question) == (
            expected.sample.id, expected.sample.question
        )
        assert [i.tobytes() for i in item.images] == [i.tobytes() for i in expected.images]


def test_rows_without_an_id_are_called_by_their_place(tmp_path: Path):
    parquet(tmp_path / "rows", 2)
    nameless = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows" / "0.parquet"))
    nameless["train"].remove_columns("id").save_to_disk(tmp_path / "saved")
    table = StreamedTable(str(tmp_path / "saved"))
    assert [table.read(row).id for row in table.rows()] == ["file 0 row 0", "file 0 row 1"]


@pytest.mark.parametrize("lengths", [(3, 5, 2, 4), (7, 1, 6)])
@pytest.mark.parametrize("shares", [1, 2, 4])
def test_shares_hold_every_row_once(lengths: tuple[int, ...], shares: int, tmp_path: Path):
    table = StreamedTable(str(parquet(tmp_path / "rows", *lengths)))
    found = [[row.values["id"] for row in table.rows(share, shares)] for share in range(shares)]
    assert Counter(name for names in found for name in names) == Counter(named(*lengths))
    if len(lengths) % shares == 0:  # a share reads no other share's files
        files = [{name.split("-")[0] for name in names} for names in found]
        assert sum(map(len, files)) == len(lengths)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lengths", [(8, 8, 8, 8), (20, 7, 5)])
def test_processes_and_workers_together_see_each_sample_once_a_pass(
    lengths: tuple[int, ...], workers: int, tmp_path: Path
):
    """32 rows in 2 x 2 shares of 8 rows: by file, and by row; a pass takes each process 8 batches
    of 2, in another order each time."""
    folder = parquet(tmp_path / "rows", *lengths)
    ranks = [batches(folder, 16, workers=workers, rank=rank, ranks=2) for rank in range(2)]
    passes = [[batch for rank in ranks for batch in rank[start : start + 8]] for start in (0, 8)]
    for found in passes:
        assert Counter(name for batch in found for name in batch) == Counter(named(*lengths))
    assert passes[0] != passes[1]
    assert passes[0] != [
        batch for rank in range(2)
        for batch in batches(folder, 8, workers=workers, rank=rank, ranks=2, seed=1)
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("unreadable", [(), ("0-1", "1-0", "1-1", "1-6")])
def test_a_stream_goes_on_where_its_batches_ended(
    workers: int, unreadable: tuple[str, ...], tmp_path: Path
):
    """In the first pass over 10 rows, at its end, in the second and in the third."""
    folder = parquet(tmp_path / "rows", 3, 7, unreadable=unreadable)
    whole = batches(folder, 14, workers=workers)
    assert not set(unreadable) & {name for batch in whole for name in batch}
    for done in (1, 2, 4, 5, 6, 7, 10, 13):
        found = batches(folder, 14 - done, done=done, workers=workers)
        assert found == whole[done:], done


def test_buffer_mixes_rows_of_different_files(tmp_path: Path):
    folder = parquet(tmp_path / "rows", 6, 6)
    (first,) = batches(folder, 1, held=1)
    assert len({name.split("-")[0] for name in first}) == 1
    first_six = [name for batch in batches(folder, 3, held=12) for name in batch]
    assert {name.split("-")[0] for name in first_six} == {"0", "1"}


def test_what_stands_in_for_unreadable_samples_says_so(tmp_path: Path):
    folder = parquet(tmp_path / "rows", 5, unreadable=("0-2", "0-3"))
    stream = TrainingStream(StreamedTable(str(folder)), 1, 0, partial(int, 0), held=1)
    found = [Filling(as_batch)([place]) for place in islice(stream, 5)]
    assert [batch["ids"] for batch in found] == [["0-0"], ["0-1"], ["0-4"], ["0-4"], ["0-4"]]
    assert [batch["own"] for batch in found] == [[True], [True], [False], [False], [True]]
    assert [[skipped.id for skipped in batch["skipped"]] for batch in found] == [
        [], [], ["0-2 (file 0 row 2)", "0-3 (file 0 row 3)"], ["0-3 (file 0 row 3)"], []
    ]


def test_streams_that_cannot_be_are_refused(tmp_path: Path, conversations: Path):
    with pytest.raises(rcp.UserError, match="all.json' cannot be streamed. Give hf:NAME:SPLIT"):
        StreamedTable(str(conversations))
    with pytest.raises(rcp.UserError, match="cannot be opened"):
        StreamedTable(str(tmp_path / "gone.parquet"))
    folder = parquet(tmp_path / "rows", 2, unreadable=("0-0", "0-1"))
    with pytest.raises(rcp.UserError, match="None of 1000 samples that follow .* can be read"):
        batches(folder, 1)
    with pytest.raises(rcp.UserError, match="has no row for share 2 of 3. Use fewer"):
        batches(folder, 1, rank=2, ranks=3)
    whole = (folder / "0.parquet").read_bytes()
    table = StreamedTable(str(folder))
    (folder / "0.parquet").write_bytes(whole[:40] + bytes(40) + whole[80:])
    with pytest.raises(rcp.UserError, match="File 0 of 1 of .* cannot be read on after 0 rows"):
        list(table.rows())
    with pytest.raises(rcp.UserError, match="group_by_length needs the lengths"):
        ConversationDataModule(str(folder), str(conversations), streaming=True,
                               group_by_length=True)


# -- training ----------------------------------------------------------------------------------

STEPS = 8


class Watch(pl.Callback):
    """Appends the ids of every batch to a file, and kills the process in step ``at``."""

    def __init__(self, file: Path, at: int | None = None) -> None:
        self.file, self.at = file, at

    def on_train_batch_start(
        self, trainer: pl.Trainer, _: pl.LightningModule, batch: Any, __: int
    ) -> None:
        with self.file.open("a") as file:
            file.write(f"{trainer.global_step} {' '.join(batch['ids'])}\n")
        if trainer.global_step == self.at:
            kill()


def fit(base: Path, data: ConversationDataModule, folder: Path, *more: pl.Callback,
        teacher_cache: Path | None = None, **settings: Any) -> None:
    torch.manual_seed(0)
    module = training(base, teacher_cache=teacher_cache and str(teacher_cache))
    settings = {"max_steps": STEPS, "val_check_interval": 4, **settings}
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*callbacks(folder, checkpoint_every=2), *more],
        plugins=[AtomicCheckpointIO()], **settings,
    )
    last = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_on_a_stream_ends_like_an_uninterrupted_one(
    workers: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    """Killed in step 5, after a checkpoint at step 4: in the second pass over 7 rows."""
    folder = parquet(tmp_path / "rows", 3, 4, unreadable=("1-2",))

    def run(name: str, at: int | None = None) -> int:
        data = ConversationDataModule(
            str(folder), str(conversations), batch_size=2, num_workers=workers, unreadable=0.3,
            streaming=True, stream_buffer=3,
        )
        watch = Watch(tmp_path / f"{name}.txt", at)
        return in_child(lambda: fit(base_folder, data, tmp_path / name, watch))

    assert run("whole") == 0
    assert run("killed", 5) < 0 and run("killed") == 0
    whole, killed = [
        (tmp_path / f"{name}.txt").read_text().splitlines() for name in ("whole", "killed")
    ]
    assert killed == [*whole[:6], *whole[4:]] and len(whole) == STEPS
    ends = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_settings_that_a_stream_cannot_have(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    folder = parquet(tmp_path / "rows", 4, 4, unreadable=("0-1", "1-1"))
    val = str(conversations)

    def stream(**changes: Any) -> ConversationDataModule:
        changes = {"batch_size": 2, "unreadable": 0.2, **changes}
        return ConversationDataModule(str(folder), val, streaming=True, **changes)

    for settings, message in (
        ({"max_steps": -1}, "trainer.max_steps is not set"),
        ({"val_check_interval": 1.0}, "trainer.val_check_interval is 1.0, a share of an epoch"),
        ({"teacher_cache": tmp_path / "cache"}, "model.teacher_cache keeps something for each"),
    ):
        with pytest.raises(rcp.UserError, match=message):
            fit(base_folder, stream(), tmp_path / "refused", **settings)
    with pytest.raises(rcp.UserError, match=r"2 samples could not .* data.unreadable = 0.1 of 16"):
        fit(base_folder, stream(unreadable=0.1), tmp_path / "too_many")
    fit(base_folder, stream(), tmp_path / "run")
    with pytest.raises(rcp.UserError, match="data.batch_size is 4, but was 2 before"):
        fit(base_folder, stream(batch_size=4), tmp_path / "run", max_steps=STEPS + 2)


# -- check-data --------------------------------------------------------------------------------


def test_check_data_looks_through_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = parquet(tmp_path / "rows", 3, 4)
    assert main(["check-data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "7 samples, images: 7 with 1" in out and "No problem found." in out
    assert "Files: 2." in out
    os.remove(folder / "1.parquet")
    other = parquet(tmp_path / "other", 3, unreadable=("0-1",))
    os.rename(other / "0.parquet", folder / "1.parquet")  # the same ids again
    assert main(["check-data", str(folder)]) == 2
    out = capsys.readouterr().out
    assert "An image of sample '0-1 (row 4)'" in out and "The id '0-0' occurs more than once" in out
    assert main(["check-data", str(other), "--no-decode"]) == 2


# -- several processes -------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_with_shares_of_unlike_length_end_together(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """One process has a file of 9 rows, the other one of 2: ten batches of 2 each."""
    folder = parquet(tmp_path / "rows", 9, 2)
    arguments = {
        "--model.base": base_folder,
        "--model.plugin.stages": "[{layer: 1, ratio: 0.25, arguments: {inner: 8, heads: 2}}]",
        "--model.max_new_tokens": 2,
        "--data.train": folder, "--data.val": conversations, "--data.batch_size": 2,
        "--data.streaming": "true", "--data.num_workers": 1,
        "--trainer.max_steps": 10, "--trainer.val_check_interval": 5,
        "--trainer.accelerator": "cpu", "--trainer.devices": 2, "--trainer.strategy": "ddp",
        "--run_folder": tmp_path / "run",
    }
    command = [sys.executable, "train.py", *(str(part) for pair in arguments.items()
                                             for part in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10
