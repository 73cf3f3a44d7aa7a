"""Layouts of rows and splits of folders: what is understood, what is refused by name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rcp
from rcp.__main__ import main
from rcp.conversations import ConversationDataset, Sample
from rcp.conversations.source import open_conversations
from rcp.conversations.stream import StreamedTable
from rcp.conversations.table import TableDataset
from rcp.training.data_module import ConversationDataModule

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def chat(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


ONE, TWO = "<image>\nhow many ?", "<image><image>\nhow many ?"
ASKED = [{"type": "image"}, {"type": "text", "text": "how many ?"}]
ANSWERED = [{"type": "text", "text": "two"}]
UNDERSTOOD = {
    "LLaVA": ({"conversations": said(("human", ONE), ("gpt", "two"))}, ONE),
    "user and assistant": ({"conversations": said(("user", ONE), ("assistant", "two"))}, ONE),
    "messages": ({"messages": chat(("user", ONE), ("assistant", "two"))}, ONE),
    "chat conversations": ({"conversations": chat(("user", ONE), ("assistant", "two"))}, ONE),
    "parts": ({"messages": chat(("user", ASKED), ("assistant", ANSWERED))}, ONE),
    "column by column": (
        {"conversations": {"from": ["human", "gpt"], "value": [ONE, "two"]}}, ONE),
    "texts": ({"texts": [{"user": "how many ?", "assistant": "two", "source": "x"}]}, ONE),
    "texts that place": ({"texts": [{"user": "how <image> ?", "assistant": "two"}]},
                         "how <image> ?"),
    "plain": ({"question": "how many ?", "answer": "two"}, ONE),
    "answers": ({"question": "how many ?", "answers": ["two", "one", "two"]}, ONE),
    "a number": ({"question": "how many ?", "answer": 2}, ONE),
}


@pytest.mark.parametrize("field", ["image", "images", "image_path", "image_paths"])
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_layout_is_understood(name: str, field: str, folder: Path):
    """From JSON and from Parquet, mapped and streamed."""
    row, question = UNDERSTOOD[name]
    row = {"id": "a", field: ["0.png"] if field.endswith("s") else "0.png", **row}
    (folder / "rows.json").write_text(json.dumps([row]))
    pa.parquet.write_table(pa.Table.from_pylist([row]), folder / "rows.parquet")
    source = str(folder / "rows.parquet")
    stream = StreamedTable(source)
    answer = "2" if name == "a number" else "two"
    expected = Sample("a", (folder / "0.png",), question, answer, "untyped")
    assert ConversationDataset(folder / "rows.json").samples == [expected]
    assert TableDataset(source).samples == [expected]
    assert [stream.read(row) for row in stream.rows()] == [expected]


def test_messages_may_bring_their_images(folder: Path):
    parts = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "how"},
             {"type": "image", "path": "1.png"}, {"type": "text", "text": "many ?"}]
    later = [{"type": "image", "image": "gone.png"}]
    row = {"messages": chat(("user", parts), ("assistant", "two"), ("user", later))}
    (folder / "rows.json").write_text(json.dumps([row]))
    (sample,) = ConversationDataset(folder / "rows.json").samples
    assert sample.images == (folder / "0.png", folder / "1.png")
    assert sample.question == "<image>\nhow\n<image>\nmany ?"


USER = ("user", ONE)
REFUSED = {
    "none of its fields ('id', 'query', 'response') is one": {"query": "q", "response": "a"},
    "begins with a system turn": {"messages": chat(("system", "be short"), USER)},
    "begins with a turn of the assistant": {"messages": chat(("assistant", "hi"), USER)},
    "the 'gpt' turn reads {'content': 'x', 'role': 'tool'}": {
        "messages": chat(USER, ("tool", "x"))},
    "neither text nor an image: {'type': 'video'": {
        "messages": chat(("user", [{"type": "video", "video": "a.mp4"}]),
                         ("assistant", ANSWERED))},
    "2 image parts in a turn, of which 1 hold": {
        "messages": chat(("user", [*ASKED, {"type": "image", "image": "0.png"}]),
                         ("assistant", ANSWERED))},
    "images in its messages and 1 more": {
        "image": "1.png",
        "messages": chat(("user", [{"type": "image", "image": "0.png"}]),
                         ("assistant", ANSWERED))},
    "'texts' must be a list of turns": {"texts": ["a", None]},
    "has 0 '<image>' placeholder": {
        "image": "0.png", "conversations": said(("human", "how many ?"), ("gpt", "two"))},
    "'img' holds '0.png', which looks like one": {"img": "0.png", "question": "q", "answer": "a"},
    "'video' holds 'a.mp4'": {"video": "a.mp4", "question": "q", "answer": "a"},
    "'pictures' holds ['0.png']": {"pictures": ["0.png"], "question": "q", "answer": "a"},
    "'frame' holds {'bytes'": {"frame": {"bytes": b"x", "path": None}, "question": "q",
                               "answer": "a"},
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_a_layout_is_refused_by_name(complaint: str, folder: Path):
    """From JSON and from Parquet, whose rows have all fields, and the parts of messages, too."""
    rows = [{"id": "a", "question": "q", "answer": "a"}, {"id": "b", **REFUSED[complaint]}]
    tables = [pa.Table.from_pylist([row]) for row in rows]
    pa.parquet.write_table(
        pa.concat_tables(tables, promote_options="default"), folder / "rows.parquet"
    )
    (fault,) = TableDataset(str(folder / "rows.parquet")).unreadable
    assert str(fault).startswith("Sample 'b' of")
    if "frame" not in rows[1]:  # whose bytes JSON cannot hold
        (folder / "rows.json").write_text(json.dumps(rows))
        (fault,) = ConversationDataset(folder / "rows.json").unreadable
    assert complaint in str(fault) and "\n" not in str(fault)


def test_names_of_images_are_no_images(folder: Path):
    """Numbers and sizes that data sets carry along do not make a text an image's."""
    row = {"id": 1, "question": "q", "answer": "a", "image_id": 7, "image_width": 8,
           "image_source": "coco", "image": None, "images": []}
    (folder / "rows.json").write_text(json.dumps([row]))
    assert ConversationDataset(folder / "rows.json").samples[0].images == ()


# -- splits ------------------------------------------------------------------------------------


def table(*ids: str) -> Any:
    return datasets.Dataset.from_list([{"id": n, "question": "q", "answer": "a"} for n in ids])


def ids(source: str | Path, **options: Any) -> list[str]:
    streamed = StreamedTable(str(source), **options)
    found = [sample.id for sample in TableDataset(str(source), **options).samples]
    assert found == [streamed.read(row).id for row in streamed.rows()]
    return found


@pytest.fixture(params=["names", "data", "folders", "DatasetDict"])
def splits(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with two files to train on, one to validate on and one to test on."""
    parts = {"train": ("a", "b"), "validation": ("v",), "test": ("t",)}
    folder = tmp_path / "rows"
    if request.param == "DatasetDict":
        datasets.DatasetDict({k: table(*v) for k, v in parts.items()}).save_to_disk(folder)
        return folder
    where = {"names": "{0}-0000{1}.parquet", "data": "data/{0}-0000{1}-of-2.parquet",
             "folders": "{0}/{1}.parquet"}[request.param]
    for part, names in parts.items():
        for number, name in enumerate(names):
            path = folder / where.format(part, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            table(name).to_parquet(path)
    return folder


def test_a_split_has_its_own_files(splits: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert ids(splits) == ["a", "b"]
    assert "'train' is read, not 'validation', 'test'" in caplog.text
    assert ids(f"{splits}:test") == ["t"] and ids(splits, split="validation") == ["v"]
    with pytest.raises(rcp.UserError, match="'train', 'validation', 'test', but no 'dev'. Name"):
        TableDataset(f"{splits}:dev")
    data = ConversationDataModule(str(splits), str(splits))
    assert [len(d) for d in (data.train_dataset, data.val_dataset)] == [2, 1]
    assert main(["check-data", f"{splits}:validation"]) == 0


def test_a_split_that_is_alone_needs_no_name(tmp_path: Path):
    table("t").to_parquet(tmp_path / "test.parquet")
    assert ids(tmp_path) == ["t"]
    table("d").to_parquet(tmp_path / "dev.parquet")
    with pytest.raises(rcp.UserError, match="holds the splits 'validation', 'test', and none is"):
        TableDataset(str(tmp_path))


def test_a_saved_folder_is_the_files_it_lists(tmp_path: Path):
    """Caches that ``map`` left there are no data."""
    table("a").save_to_disk(tmp_path / "saved")
    cached = next((tmp_path / "saved").glob("*.arrow")).read_bytes()
    (tmp_path / "saved" / "cache-0.arrow").write_bytes(cached)
    assert ids(tmp_path / "saved") == ["a"]


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": 5}', '{"splits": []}'])
def test_a_damaged_list_of_splits_is_refused(content: str, tmp_path: Path):
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(rcp.UserError, match="list of splits .* cannot be read"):
        open_conversations(str(tmp_path))


def test_a_folder_of_several_conversation_files_names_them(tmp_path: Path):
    for name in ("train.json", "val.jsonl"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(rcp.UserError, match="2 JSON files .'train.json', 'val.jsonl'., so it is"):
        ConversationDataset(tmp_path)
