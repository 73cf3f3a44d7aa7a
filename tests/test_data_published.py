"""Rows that are read by a rule of their own: several questions of a row, or none; named splits."""

import json

import pytest
from PIL import Image

from rcp.conversations.asked import Asked, Reading
from rcp.conversations.checks import Thoroughness, check_file
from rcp.conversations.formats import read_rows
from rcp.conversations.layouts import Refused
from rcp.conversations.source import open_conversations
from rcp.conversations.splits import files_of, source_of
from rcp.conversations.table import TableDataset, column_by
from rcp.conversations.unreadable import first_rows
from rcp.errors import UserError

datasets = pytest.importorskip("datasets")


def asked(row):
    """A row of ``say``: what is to be asked, a list; of None nothing, of 0 refused."""
    if row["say"] == 0:
        raise Refused("says nothing. Remove it.")
    return [
        Asked({"id": row["name"], "question": said, "answer": "two", "image": row["shown"]},
              {"said": said})
        for said in row["say"] or []
    ]


READING = Reading(asked, frozenset({"box"}))
ROWS = [
    {"name": "a", "say": ["one ?", "how many ?"], "shown": "0.png", "box": [1.0]},
    {"name": "b", "say": None, "shown": "0.png", "box": [2.0]},
    {"name": "c", "say": ["what ?"], "shown": "1.png", "box": [3.0]},
]


@pytest.fixture
def sources(tmp_path):
    """The rows as a file and as a table."""
    images = {f"{number}.png": Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(2)}
    for name, image in images.items():
        image.save(tmp_path / name)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    rows = [{**row, "shown": images[row["shown"]]} for row in ROWS]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    return [str(tmp_path / "rows.json"), str(tmp_path / "rows.parquet")]


@pytest.mark.parametrize("number", [0, 1], ids=["file", "table"])
def test_a_row_asks_several_questions_or_none(sources, number):
    dataset = open_conversations(sources[number], reading=READING)
    assert [sample.question for sample in dataset.samples] == [
        "<image>\none ?", "<image>\nhow many ?", "<image>\nwhat ?"
    ]
    assert [sample.id for sample in dataset.samples] == ["a", "a (row 0)", "c"]
    assert [sample.facts for sample in dataset.samples] == [
        {"said": "one ?"}, {"said": "how many ?"}, {"said": "what ?"}
    ]
    assert dataset.numbers == [0, 0, 2]
    loaded = [dataset[index] for index in range(3)]
    assert [item.sample for item in loaded] == dataset.samples
    assert [item.images[0].getpixel((0, 0))[0] for item in loaded] == [0, 0, 1]
    assert len(check_file(dataset, Thoroughness(decode=True)).samples) == 3


@pytest.mark.parametrize("limit, count", [(1, 1), (2, 2), (3, 3), (None, 3)])
def test_a_limit_may_fall_between_the_questions_of_a_row(sources, limit, count):
    dataset = open_conversations(sources[0], reading=READING)
    numbers, faults = first_rows(dataset, limit)
    assert list(numbers) == list(range(count)) and not faults


def test_a_limit_counts_the_rows_that_cannot_be_read(tmp_path):
    rows = [{**ROWS[0], "say": 0}, ROWS[0], {**ROWS[0], "say": 0}, ROWS[2]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    dataset = open_conversations(str(tmp_path / "rows.json"), reading=READING)
    found = [first_rows(dataset, limit) for limit in (1, 2, 3, 4, 5)]
    assert [(len(numbers), len(faults)) for numbers, faults in found] == [
        (0, 1), (1, 1), (2, 1), (2, 2), (3, 2)
    ]
    assert str(dataset.unreadable[0]).endswith("rows.json' says nothing. Remove it.")


def test_columns_of_floats_are_read_where_they_are_asked_for(sources):
    seen = []
    reading = Reading(lambda row: seen.append(row.get("box")) or asked(row), READING.columns)
    TableDataset(sources[1], reading=reading)
    assert seen == [[1.0], [2.0], [3.0]]
    seen.clear()
    TableDataset(sources[1], reading=Reading(reading.asked))
    assert seen == [None] * 3


def test_bytes_of_images_are_read_where_they_are_asked_for_and_not_kept(sources):
    seen = []
    reading = Reading(lambda row: seen.append(row["shown"]["bytes"]) or asked(row),
                      frozenset({"shown"}))
    dataset = TableDataset(sources[1], reading=reading)
    assert all(image.startswith(b"\x89PNG") for image in seen)
    assert not any(isinstance(image, bytes) for one in dataset.samples for image in one.images)


# -- splits and configurations -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    row = {"question": "how many ?", "answer": "two"}
    for split in ("val", "test", "testA", "testB"):
        datasets.Dataset.from_list([{**row, "id": split}]).to_parquet(
            tmp_path / f"{split}-00000-of-00001.parquet"
        )
    return tmp_path


@pytest.mark.parametrize("split", ["val", "test", "testA", "testB"])
def test_a_split_of_any_name_is_told_by_its_files(folder, split):
    assert [sample.id for sample in TableDataset(f"{folder}:{split}").samples] == [split]
    assert source_of(folder, split) == f"{folder}:{split}"


def test_validation_is_what_it_was(folder):
    assert [file.name[:4] for file in files_of(f"{folder}:validation").files] == ["val-"]


def test_where_nothing_tells_splits_the_folder_is_meant(tmp_path):
    datasets.Dataset.from_list([{"question": "?", "answer": "two"}]).to_parquet(
        tmp_path / "rows.parquet"
    )
    assert source_of(tmp_path, "testA") == str(tmp_path)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("hf:owner/name", {"path": "owner/name", "split": "train"}),
        ("hf:owner/name:test", {"path": "owner/name", "split": "test"}),
        ("hf:name:test", {"path": "name", "split": "test"}),
        ("hf:owner/name/en:dev", {"path": "owner/name", "name": "en", "split": "dev"}),
        ("hf:owner/name/en", {"path": "owner/name", "name": "en", "split": "train"}),
        ("hf:owner/name:train[:10%]", {"path": "owner/name", "split": "train[:10%]"}),
        ("hf:./some/folder:test", {"path": "./some/folder", "split": "test"}),
        ("hf:/some/folder:test", {"path": "/some/folder", "split": "test"}),
    ],
)
def test_what_the_hub_is_asked_for(source, expected, monkeypatch):
    asked_for = []

    def load_dataset(**options):
        asked_for.append({name: options[name] for name in options if name != "streaming"})
        return datasets.Dataset.from_list([{"question": "how many ?", "answer": "two"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    TableDataset(source)
    assert asked_for == [expected]


def test_a_column_by_another(sources):
    assert column_by("name", "box", sources[1]) == {"a": [1.0], "b": [2.0], "c": [3.0]}
    with pytest.raises(UserError, match="has no column 'size'"):
        column_by("name", "size", sources[1])


# -- MS COCO -------------------------------------------------------------------------------------


@pytest.fixture
def captions(tmp_path):
    """The file of captions, of one image."""
    file = tmp_path / "captions_val2014.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}))
    return file


def test_captions_of_coco_need_its_instances(captions):
    with pytest.raises(UserError, match="holds annotations of MS COCO. Name the file of its capt"):
        open_conversations(str(captions))
    instances = captions.rename(captions.with_name("instances_val2014.json"))
    with pytest.raises(UserError, match="holds annotations of MS COCO. Name the file of its capt"):
        open_conversations(str(instances))


@pytest.mark.parametrize(
    "instances",
    [[], {}, {"categories": [{"id": [], "name": {}}, 3], "annotations": [{"image_id": {}}, None]}],
)
def test_instances_of_coco_that_say_nothing_leave_an_image_without_objects(captions, instances):
    captions.with_name("instances_val2014.json").write_text(json.dumps(instances))
    (row,) = read_rows(captions)
    assert (row["image"], row["captions"], row["objects"]) == ("1.jpg", [], [])
    with pytest.raises(UserError, match="has no conversation: none of its fields"):
        open_conversations(str(captions))
