"""Training data: published layouts, Hugging Face data sets, unreadable samples, lengths, checks."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import ExifTags, Image

import rcp
from rcp.__main__ import main
from rcp.conversations import ConversationDataset
from rcp.conversations.splits import is_table
from rcp.conversations.table import TableDataset
from rcp.training.data_module import ConversationDataModule
from rcp.training.run.folder import callbacks
from rcp.training.sampler import ResumableSampler
from tests.test_training_plugin import training
from tests.tiny_base import conversation, write_conversations

datasets = pytest.importorskip("datasets")
pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def picture(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)


# -- layouts -----------------------------------------------------------------------------------

ANSWERS = ["two", "three", "two"]
LAYOUTS = {
    "plain.json": [{"image": "7.jpg", "question": "how many ?", "answer": "two"}],
    "lines.jsonl": [{"image": "7.jpg", "question": "<image>\nhow many ?", "answer": "two"}],
    "textvqa.json": {"data": [{"image_id": 7, "question": "how many ?", "answers": ANSWERS}]},
    "gqa.json": {"a1": {"imageId": "7", "question": "how many ?", "answer": "two",
                        "types": {"structural": "query"}}},
    "vqa.json": [{"image": "7.jpg", "question": "how many ?",
                  "answers": [{"answer": answer} for answer in ANSWERS]}],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts_become_conversations(name: str, tmp_path: Path):
    picture(tmp_path, "7.jpg")
    content = LAYOUTS[name]
    lines = [json.dumps(row) for row in content] if name.endswith("l") else [json.dumps(content)]
    (tmp_path / name).write_text("\n".join(lines))
    (sample,) = ConversationDataset(tmp_path / name).samples
    assert (sample.question, sample.answer) == ("<image>\nhow many ?", "two")
    assert sample.images == (tmp_path / "7.jpg",)
    assert sample.question_type == ("query" if name == "gqa.json" else "untyped")


def test_vqa_v2_finds_its_annotations(tmp_path: Path):
    questions = {"data_subtype": "val2014",
                 "questions": [{"question_id": 70, "image_id": 7, "question": "how many ?"}]}
    annotations = {"annotations": [{"question_id": 70, "multiple_choice_answer": "two",
                                    "answer_type": "number"}]}
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps(questions))
    with pytest.raises(rcp.UserError, match="put 'v2_mscoco_val2014_annotations.json' beside"):
        ConversationDataset(path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps(annotations))
    picture(tmp_path, "COCO_val2014_000000000007.jpg")
    (sample,) = ConversationDataset(path).samples
    assert (sample.id, sample.answer, sample.question_type) == ("70", "two", "number")


@pytest.mark.parametrize(
    ("question", "annotations", "complaint"),
    [
        ({"question_id": 70, "image_id": None}, [], "holds no list of annotations"),
        ({"question_id": 70, "image_id": 7}, {"annotations": [5]}, "the 'gpt' turn reads"),
        ({"image_id": 7}, {"annotations": []}, "the 'gpt' turn reads"),
        ({"question_id": 70}, {"annotations": [{"question_id": 70, "multiple_choice_answer": "a"}]},
         "COCO_train2014_.*None.jpg', which does not exist"),
    ],
)
def test_damaged_files_of_vqa_v2_are_refused(question, annotations, complaint, tmp_path: Path):
    questions = {"questions": [question | {"question": "how many ?"}]}
    (tmp_path / "v2_OpenEnded_questions.json").write_text(json.dumps(questions))
    (tmp_path / "v2_annotations.json").write_text(json.dumps(annotations))
    with pytest.raises(rcp.UserError, match=complaint):
        ConversationDataset(tmp_path / "v2_OpenEnded_questions.json")[0]


# -- Hugging Face data sets --------------------------------------------------------------------


def table(conversations: Path, folder: Path) -> tuple[ConversationDataset, list[str]]:
    """The conversations as files, and as what ``save_to_disk`` and ``to_parquet`` write."""
    files = ConversationDataset(conversations)
    rows = json.loads(conversations.read_text())
    for row in rows:
        row["image"] = str(conversations.parent / row["image"])
    whole = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    whole.save_to_disk(folder / "saved")
    whole.to_parquet(folder / "rows.parquet")
    return files, [str(folder / "saved"), str(folder / "rows.parquet")]


def test_a_hugging_face_data_set_is_read_like_its_files(conversations: Path, tmp_path: Path):
    files, sources = table(conversations, tmp_path)
    for source in sources:
        assert is_table(source)
        found = TableDataset(source)
        assert len(found) == len(files)
        for item, expected in zip(found, files):
            assert item.sample.id == expected.sample.id
            assert item.sample.question == expected.sample.question
            assert [i.tobytes() for i in item.images] == [i.tobytes() for i in expected.images]
    assert not is_table(str(conversations))


def test_a_table_of_plain_questions_and_bad_rows(tmp_path: Path):
    rows = {"question": ["how many ?", "how many ?"], "answer": ["two", "two"],
            "images": [[Image.new("RGB", (8, 8))], []]}
    features = datasets.Features({"question": datasets.Value("string"),
                                  "answer": datasets.Value("string"),
                                  "images": datasets.List(datasets.Image())})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "plain")
    found = TableDataset(str(tmp_path / "plain"))
    assert found[0].sample.question == "<image>\nhow many ?" and len(found[0].images) == 1
    assert found[1].sample.question == "how many ?" and not found[1].images
    with pytest.raises(rcp.UserError, match="cannot be opened"):
        TableDataset(str(tmp_path / "gone.parquet"))


# -- pictures of every kind --------------------------------------------------------------------


def test_pictures_are_read_upright_and_with_all_their_bits(tmp_path: Path):
    """The same from a file and from a data set, which turns them by itself."""
    held = Image.new("RGB", (8, 4), "red")
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 6
    held.save(tmp_path / "0.jpg", exif=orientation)
    Image.frombytes("I;16", (2, 1), bytes([0, 255, 0, 128])).save(tmp_path / "1.png")
    rows = [{"image": name, "question": "q", "answer": "a"} for name in ("0.jpg", "1.png")]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    files = ConversationDataset(tmp_path / "all.json")
    assert files[0].images[0].size == (4, 8)
    assert [files[1].images[0].getpixel((x, 0))[0] for x in (0, 1)] == [255, 128]
    for row in rows:
        row["image"] = str(tmp_path / row["image"])
    whole = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    whole.to_parquet(tmp_path / "rows.parquet")
    for one, other in zip(files, TableDataset(str(tmp_path / "rows.parquet"))):
        assert one.images[0].tobytes() == other.images[0].tobytes()


def test_whatever_pillow_raises_is_an_image_that_cannot_be_read(
    conversations: Path, capsys: pytest.CaptureFixture[str]
):
    """Of a PNG whose chunks end in the wrong place a SyntaxError."""
    damaged = conversations.parent / "images" / "0.png"
    Image.effect_noise((32, 32), 50).save(damaged)
    whole = damaged.read_bytes()
    data = whole.index(b"IDAT")
    damaged.write_bytes(whole[: data - 4] + b"\0\0\0\x0a" + whole[data:])
    with pytest.raises(rcp.UserError, match="0.png' of sample 'sample-0' cannot be read"):
        ConversationDataset(conversations)[0]
    assert main(["check-data", str(conversations)]) == 2
    assert "0.png' of sample 'sample-3' cannot be read" in capsys.readouterr().out


# -- unreadable samples ------------------------------------------------------------------------


def fit(base: Path, path: Path, folder: Path, unreadable: float) -> list[list[str]]:
    seen: list[list[str]] = []

    class Ids(pl.Callback):
        def on_train_batch_start(self, _: object, __: object, batch: dict, ___: int) -> None:
            seen.append(batch["ids"])

    trainer = pl.Trainer(
        default_root_dir=folder, max_steps=4, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[*callbacks(folder), Ids()],
    )
    data = ConversationDataModule(
        str(path), str(path), batch_size=2, num_workers=0, unreadable=unreadable
    )
    trainer.fit(training(base), data)
    return seen


def test_unreadable_samples_are_passed_over_up_to_a_share(
    base_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = write_conversations(tmp_path / "all.json", [conversation(n) for n in range(8)])
    (tmp_path / "images" / "0.png").write_bytes(b"no image")  # samples 0, 3 and 6 of 8
    batches = fit(base_folder, path, tmp_path / "run", unreadable=0.4)
    assert [len(ids) for ids in batches] == [2, 2, 2, 2]
    assert not {"sample-0", "sample-3", "sample-6"} & {name for ids in batches for name in ids}
    assert "Sample 'sample-3' is passed over" in caplog.text
    with pytest.raises(rcp.UserError, match="3 samples could not be read, .* = 0.3 of 8 allows"):
        fit(base_folder, path, tmp_path / "other", unreadable=0.3)


# -- lengths -----------------------------------------------------------------------------------


def test_batches_by_length_hold_every_sample_once_and_resume_where_they_were():
    lengths = torch.randint(1, 1000, (203,), generator=torch.Generator().manual_seed(1)).tolist()
    done = [0]

    def share(rank: int, ranks: int) -> list[int]:
        return list(ResumableSampler(range(203), 4, 0, lambda: done[0], ranks, rank, lengths))

    assert sorted(share(0, 1)) == list(range(203))
    first, second = share(0, 2), share(1, 2)
    assert len(first) == len(second) and set(first) | set(second) == set(range(203))
    steps = [first[at : at + 4] + second[at : at + 4] for at in range(0, len(first), 4)]
    spread = [max(lengths[n] for n in step) - min(lengths[n] for n in step) for step in steps]
    assert sum(spread) / len(spread) < 100  # of 1000; shuffled batches of 8 spread over 780
    longest = [max(lengths[n] for n in step) for step in steps]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    done[0] = 7
    assert share(0, 2) == first[28:]
    done[0] = len(steps)  # the next epoch has another order
    assert share(0, 2) != first and len(share(0, 2)) == len(first)


# -- check-data --------------------------------------------------------------------------------


def test_check_data_summarises_sound_files(conversations: Path, capsys):
    assert main(["check-data", str(conversations)]) == 0
    out = capsys.readouterr().out
    assert "attribute" in out and "4 samples" in out and "No problem found." in out


def test_check_data_lists_every_problem_with_its_sample(tmp_path: Path, capsys):
    rows = [conversation(n) for n in range(6)]
    rows[1]["image"] = "images/gone.png"
    rows[2]["conversations"] = []
    rows[5]["id"] = "sample-4"
    path = write_conversations(tmp_path / "all.json", rows)
    assert main(["check-data", str(path)]) == 2
    captured = capsys.readouterr()
    for problem in ("Sample 'sample-1' of", "Sample 'sample-2' of", "The id 'sample-4' occurs"):
        assert problem in captured.out
    assert "has 2 problems beside 4 sound samples" in captured.err


def test_check_data_decodes_images_unless_told_not_to(conversations: Path, capsys):
    whole = (conversations.parent / "images" / "0.png").read_bytes()
    (conversations.parent / "images" / "0.png").write_bytes(whole[:-30])
    assert main(["check-data", str(conversations), "--no-decode"]) == 0
    assert main(["check-data", str(conversations)]) == 2
    assert "0.png' of sample 'sample-3' cannot be read" in capsys.readouterr().out
