"""Samples that cannot be read: counted in one place, passed over, left out, marked."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import rcp
from rcp.__main__ import main
from rcp.base_model import loading
from rcp.conversations import ConversationCollator, ConversationDataset, LoadedSample, Sample
from rcp.conversations.sample import Unfit
from rcp.conversations.stream import StreamedTable, TrainingStream
from rcp.conversations.table import TableDataset
from rcp.conversations.unreadable import Filling, WithStandIns, read
from rcp.training.data_module import ConversationDataModule
from rcp.training.options import LossOptions
from rcp.training.run.unreadable import StopAtTooMany
from tests.test_training_plugin import trainer, training
from tests.tiny_base import conversation, make_processor, write_conversations

datasets = pytest.importorskip("datasets")
pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROOT = Path(__file__).parent.parent
NO_REPAIR = {"loss": LossOptions(repair=0.0)}


class NoStrips(CLIPImageProcessorPil):
    """Refuses what Qwen2-VL's refuses, in its own words."""

    def __call__(self, images: Any, **options: Any) -> Any:
        for sample in images:
            for image in sample if isinstance(sample, list) else [sample]:
                smart_resize(image.height, image.width)
        return super().__call__(images, **options)


def strict_processor() -> LlavaProcessor:
    processor = make_processor()
    strict = NoStrips(size=processor.image_processor.size, do_center_crop=False)
    processor.image_processor = strict
    return processor


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


LONG = turns("<image>\n" + "red " * 60, "dark")


class Watch(pl.Callback):
    """The ids of each batch, and how many of its rows are stand-ins."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    def on_train_batch_start(self, _: Any, __: Any, batch: Any, ___: int) -> None:
        self.ids.append(batch["ids"])


def fit(base: Path, folder: Path, data: ConversationDataModule, processor: Any = None,
        **settings: Any) -> list[list[str]]:
    module, watch = training(base), Watch()
    if processor is not None:
        module.processor = processor
    settings = {"limit_val_batches": 0, **settings}
    trainer(folder, settings.pop("steps", 4), (watch,), **settings).fit(module, data)
    return watch.ids


# -- what the processor refuses ----------------------------------------------------------------


@pytest.fixture
def strip(tmp_path: Path) -> Path:
    """Eight samples, the image of the third an 801 x 4 strip."""
    rows = [conversation(n, image=f"images/{n}.png") for n in range(8)]
    path = write_conversations(tmp_path / "strips.json", rows)
    for number in range(8):
        size = (801, 4) if number == 2 else (20, 24)
        Image.new("RGB", size).save(tmp_path / "images" / f"{number}.png")
    return path


def test_an_image_that_the_processor_refuses_counts_as_unreadable(
    base_folder: Path, strip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data = ConversationDataModule(str(strip), str(strip), batch_size=2, unreadable=0.2)
    found = fit(base_folder, tmp_path / "run", data, strict_processor())
    assert [len(ids) for ids in found] == [2] * 4
    assert "sample-2" not in {name for ids in found for name in ids}
    assert "Sample 'sample-2' is refused by LlavaProcessor (absolute aspect ratio" in caplog.text
    data = ConversationDataModule(str(strip), str(strip), batch_size=2, unreadable=0.1)
    with pytest.raises(rcp.UserError, match="1 samples could not be read.*aspect ratio must be"):
        fit(base_folder, tmp_path / "other", data, strict_processor())


def test_check_data_runs_the_processor(
    base_folder: Path, strip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert main(["check-data", str(strip)]) == 0
    assert main(["check-data", str(strip), "--base", str(base_folder)]) == 0
    monkeypatch.setattr(loading, "load_processor", lambda _: strict_processor())
    capsys.readouterr()
    listed = tmp_path / "list.json"
    assert main(["check-data", str(strip), "--base", "strict", "--output", str(listed)]) == 2
    said = capsys.readouterr()
    assert "Sample 'sample-2' is refused by LlavaProcessor (absolute aspect ratio" in said.out
    assert "has 1 problems beside 7 sound samples" in said.err
    (entry,) = json.loads(listed.read_text())
    assert (entry["row"], entry["id"]) == (2, "sample-2")
    assert main(["check-data", str(strip), "--base", "strict", "--no-decode"]) == 2
    assert "leave out --no-decode" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["question", "answer"])
@pytest.mark.parametrize("token", ["<|image_pad|>", "[IMG]", "<|vision_start|>"])
def test_the_processors_own_tokens_are_no_text(token: str, field: str):
    processor = make_processor()
    processor.image_token, processor.boi_token, processor.vision_start_token = (
        "<|image_pad|>", "[IMG]", "<|vision_start|>"
    )
    texts = {"question": "<image> how many ?", "answer": "two"}
    texts[field] += f" {token}"
    image = Image.new("RGB", (20, 24))
    bad = LoadedSample(Sample("bad", (Path("a"),), question_type="x", **texts), (image,))
    for answers in (True, False):
        with pytest.raises(Unfit, match=f"Sample 'bad' has '.*' in its {field}"):
            ConversationCollator(processor, with_answers=answers)([bad])


def test_two_faults_of_one_batch_are_both_told():
    collate = ConversationCollator(strict_processor(), max_length=40)
    sizes = [(20, 24), (801, 4), (900, 4), (20, 24)]
    items = [
        LoadedSample(Sample(str(n), (Path("a"),), "<image> how ?", "two", "x"),
                     (Image.new("RGB", size),))
        for n, size in enumerate(sizes)
    ]
    with pytest.raises(Unfit) as refusal:
        collate(items)
    assert list(refusal.value.faults) == [1, 2]


# -- too long ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("long", [(0,), (0, 1), (0, 1, 2, 3, 5, 6, 7)])
def test_samples_that_are_too_long_never_end_a_run(
    batch_size: int, long: tuple[int, ...], base_folder: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    """At batch size 1, and where they fill batches; they are counted, and not as unreadable."""
    rows = [conversation(n, **({"conversations": LONG} if n in long else {})) for n in range(8)]
    path = write_conversations(tmp_path / "all.json", rows)
    data = ConversationDataModule(
        str(path), str(path), batch_size=batch_size, max_length=40, unreadable=0.0
    )
    module, watch = training(base_folder, **NO_REPAIR), Watch()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "run", 8 // batch_size, (watch,)).fit(module, data)
    assert [len(ids) for ids in watch.ids] == [batch_size] * (8 // batch_size)
    names = {f"sample-{n}" for n in long}
    assert not names & {name for ids in watch.ids for name in ids}
    assert f"{len(long)} samples of data.train were left out for their length" in caplog.text
    assert module.results["accuracy"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage_3"])
def test_two_processes_stay_in_step(strategy: str, base_folder: Path, tmp_path: Path):
    """At batch size 1, with a teacher cache, most samples too long and one without its image."""
    if strategy != "ddp":
        pytest.importorskip("deepspeed")
        if shutil.which("c++") is None:
            pytest.skip("DeepSpeed wants a C++ compiler on CPUs")
    long = {0, 1, 2, 3, 4, 5, 8, 9, 11, 13}
    rows = [conversation(n, **({"conversations": LONG} if n in long else {})) for n in range(16)]
    rows[6]["image"] = "images/gone.png"
    path = write_conversations(tmp_path / "all.json", rows)
    arguments = {
        "--model.base": base_folder,
        "--model.plugin.stages": "[{layer: 1, ratio: 0.25, arguments: {inner: 8, heads: 2}}]",
        "--model.max_new_tokens": 2, "--model.teacher_cache": tmp_path / "cache",
        "--data.train": path, "--data.val": path, "--data.batch_size": 1,
        "--data.val_batch_size": 2, "--data.max_length": 40, "--data.unreadable": 0.1,
        "--trainer.max_steps": 10, "--trainer.val_check_interval": 4,
        "--trainer.accelerator": "cpu", "--trainer.devices": 2, "--trainer.strategy": strategy,
        "--run_folder": tmp_path / "run",
    }
    command = [sys.executable, "train.py", *(str(p) for pair in arguments.items() for p in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "last.ckpt").exists()
    assert "were left out for their length" in done.stderr


def test_a_run_of_nothing_but_long_samples_says_what_to_do(base_folder: Path, tmp_path: Path):
    rows = [conversation(n, conversations=LONG) for n in range(4)]
    path = write_conversations(tmp_path / "all.json", rows)
    data = ConversationDataModule(str(path), str(path), batch_size=2, max_length=40)
    with pytest.raises(rcp.UserError, match="None of 4 samples .* Raise data.max_length"):
        fit(base_folder, tmp_path / "run", data)


def test_check_data_tells_what_is_too_long(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [conversation(0), conversation(1, conversations=LONG)]
    path = write_conversations(tmp_path / "all.json", rows)
    given = ["check-data", str(path), "--base", str(base_folder), "--max-length"]
    assert main([*given, "40"]) == 0
    out = capsys.readouterr().out
    assert "Note: 1 samples are too long, and left out in training. Sample 'sample-1'" in out
    assert main([*given, "400"]) == 0 and "too long" not in capsys.readouterr().out


# -- validation --------------------------------------------------------------------------------


def test_stand_ins_are_in_no_score(base_folder: Path, tmp_path: Path):
    """Unreadable samples leave the accuracy that the readable ones have alone."""
    rows = [conversation(n, image=f"images/{n % 2}.png") for n in range(8)]
    for row in rows[::2]:
        row["conversations"] = turns("<image>\nhow many ?", "never said")
    path = write_conversations(tmp_path / "all.json", rows)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    alone = write_conversations(tmp_path / "alone" / "all.json", rows[::2])
    found = []
    for val in (path, alone):
        module = training(base_folder)
        data = ConversationDataModule(
            str(alone), str(val), batch_size=2, val_batch_size=3, unreadable=0.6
        )
        trainer(tmp_path / f"run{len(found)}", 1, val_check_interval=1).fit(module, data)
        found.append(module.results)
    assert found[0]["full_accuracy"] == found[1]["full_accuracy"]
    assert found[0]["accuracy"] == found[1]["accuracy"]


def test_too_many_unreadable_samples_to_validate_on_end_the_run(base_folder: Path, tmp_path: Path):
    path = write_conversations(tmp_path / "all.json", [conversation(n) for n in range(8)])
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    good = write_conversations(tmp_path / "good" / "all.json", [conversation(n) for n in range(8)])
    data = ConversationDataModule(str(good), str(path), batch_size=2, unreadable=0.1)
    with pytest.raises(rcp.UserError, match=r"\d samples could not be read, .* = 0.1 of 8 allows"):
        fit(base_folder, tmp_path / "run", data, limit_val_batches=1.0, val_check_interval=1)


def test_what_an_earlier_run_passed_over_is_still_counted():
    stop = StopAtTooMany()
    stop.load_state_dict({"skipped": {"a": "why"}})
    assert stop.state_dict() == {
        "skipped": {"train": {"a": "why"}, "val": {}}, "too_long": {"train": [], "val": []}
    }
    again = StopAtTooMany()
    again.load_state_dict(stop.state_dict())
    assert again.state_dict() == stop.state_dict()


# -- seen when the data are opened -------------------------------------------------------------


def test_broken_rows_and_missing_files_count_together(
    base_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = [conversation(n) for n in range(10)]
    rows[3]["conversations"] = []
    rows[6]["image"] = "images/gone.png"
    path = write_conversations(tmp_path / "all.json", rows)
    with pytest.raises(rcp.UserError, match="2 of 10 samples of .*all.json' cannot be read, more "
                                            "than data.unreadable = 0.1 allows.*'sample-3'"):
        ConversationDataModule(str(path), str(path), unreadable=0.1)
    data = ConversationDataModule(str(path), str(path), batch_size=3, unreadable=0.2)
    assert "Sample 'sample-3' of" in caplog.text and data.samples == 9
    found = fit(base_folder, tmp_path / "run", data)
    assert not {"sample-3", "sample-6"} & {name for ids in found for name in ids}


def test_a_few_missing_files_among_many_do_not_end_a_run(tmp_path: Path):
    """Of 4 000 samples 3; the default share is a thousandth."""
    rows = [conversation(n) for n in range(4000)]
    for number in (5, 1000, 3999):
        rows[number]["image"] = "images/gone.png"
    path = write_conversations(tmp_path / "all.json", rows)
    data = ConversationDataModule(str(path), str(path))
    assert data.samples == 4000
    batch = Filling(ConversationCollator(make_processor()))(
        [WithStandIns(data.train_dataset)[n] for n in (4, 5, 3999)]
    )
    assert batch["ids"] == ["sample-4", "sample-6", "sample-0"]
    assert batch["own"] == [True, False, False]
    assert [skipped.id for skipped in batch["skipped"]] == ["sample-5", "sample-3999"]


# -- leaving out -------------------------------------------------------------------------------


def test_the_list_of_check_data_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """By conversation files, and by tables mapped and streamed, in two files."""
    rows = [conversation(n) for n in range(40)]
    for number in range(3, 33):
        rows[number]["image"] = "images/gone.png"
    rows[1]["conversations"] = turns("<image>\nhow many ?", "two <image>")
    del rows[2]["id"]
    path = write_conversations(tmp_path / "all.json", rows)
    for row in rows:
        row["image"] = str(tmp_path / str(row["image"]))
    (tmp_path / "rows").mkdir()
    for number, part in enumerate((rows[:11], rows[11:])):
        datasets.Dataset.from_list(part).to_parquet(tmp_path / "rows" / f"{number}.parquet")
    kept = ["sample-0", "2", *(f"sample-{n}" for n in range(33, 40))]
    for source in (str(path), str(tmp_path / "rows")):
        listed = tmp_path / "list.json"
        assert main(["check-data", source, "--output", str(listed)]) == 2
        said = capsys.readouterr()
        assert "... and 11 more" in said.out and "has 31 problems beside 9 sound" in said.err
        assert [entry["row"] for entry in json.loads(listed.read_text())] == [1, *range(3, 33)]
        data = ConversationDataModule(source, str(path), unreadable=0.9, leave_out=str(listed))
        assert [sample.id for sample in data.train_dataset.samples] == kept
        assert not data.train_dataset.unreadable
    data = ConversationDataModule(
        source, str(path), unreadable=0.9, leave_out=str(listed), streaming=True
    )
    assert [data.train_dataset.read(row).id for row in data.train_dataset.rows()] == [
        "sample-0", "file 0 row 2", *kept[2:]
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read"),
        ("[5]", "Entry has no place for 5"),
        ('[{"row": 0}]', "Entry is incomplete"),
        ('[{"row": 0, "file": 0, "row_of_file": 0, "id": "other", "why": ""}]',
         "row 0 as 'other', but that row is 'sample-0' here: it was written for other data"),
    ],
)
def test_another_list_is_refused(content: str, complaint: str, conversations: Path, tmp_path: Path):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(rcp.UserError, match=complaint):
        ConversationDataModule(
            str(conversations), str(conversations), leave_out=str(tmp_path / "list.json")
        )


# -- ids ---------------------------------------------------------------------------------------


def test_ids_that_repeat_are_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """And images are decoded all the same."""
    rows = [conversation(n, id="same") for n in range(4)]
    path = write_conversations(tmp_path / "all.json", rows)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "all.parquet")
    names = ["same", "same (row 1)", "same (row 2)", "same (row 3)"]
    for dataset in (ConversationDataset(path), TableDataset(str(tmp_path / "all.parquet"))):
        assert [sample.id for sample in dataset.samples] == names
    for source in (path, tmp_path / "all.parquet"):
        assert main(["check-data", str(source)]) == 0
        assert "The id 'same' occurs more than once" in capsys.readouterr().out
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    for source in (path, tmp_path / "all.parquet"):
        assert main(["check-data", str(source)]) == 2
        assert "of sample 'same (row 2)' cannot be read" in capsys.readouterr().out


def test_a_stream_counts_samples_of_one_id_apart(tmp_path: Path):
    rows = [{"id": "same", "image": {"bytes": b"x", "path": None}, "question": "q", "answer": "a"}
            for _ in range(3)] + [{"id": "good", "image": None, "question": "q", "answer": "a"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    table = StreamedTable(str(tmp_path / "rows.parquet"))
    stream = iter(TrainingStream(table, 1, 0, lambda: 0, held=1))
    batch = Filling(ConversationCollator(make_processor()))([next(stream)])
    assert batch["ids"] == ["good"]
    assert len({skipped.id for skipped in batch["skipped"]}) == 3


def test_reading_leaves_out_without_others_in_the_place(strip: Path):
    found = read(ConversationDataset(strip), range(1, 5), ConversationCollator(strict_processor()))
    assert found.batch is not None and found.batch["ids"] == ["sample-1", "sample-3", "sample-4"]
    assert [fault.id for fault in found.faults] == ["sample-2"]
    nothing = read(ConversationDataset(strip), [2], ConversationCollator(strict_processor()))
    assert nothing.batch is None and not nothing.items
