"""Where a set comes from: the hub's name, a folder laid out in any of its ways; what is neither."""

import json
import logging
import socket

import datasets
import pytest

import evaluate
from rcp.errors import UserError
from rcp.evaluation import cli
from rcp.evaluation.sets.base import SETS
from rcp.evaluation.sets.door import open_questions
from tests.sets.conftest import apart, table, write
from tests.sets.published import ROWS, as_files

pytest_plugins = ["tests.training_fixtures"]

NOT_FROM_HUB = ("chair", "mvbench", "video_mme")


# -- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """Stands in for ``datasets.load_dataset``; returns what was asked of it."""
    asked = []

    def load_dataset(path, name=None, *, split, streaming):
        assert not streaming
        asked.append((path, name, split))
        one = next(
            SETS.get(known) for known in SETS.names()
            if path in (SETS.get(known).hub.name,)
            and name in (SETS.get(known).hub.configuration or None,
                         *(hub.configuration for hub in [SETS.get(known).images_of_hub] if hub))
        )
        rows = ROWS[one.name]
        if one.images_of_hub is not None:
            rows = apart(rows)[name == one.images_of_hub.configuration]
        return table(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(NOT_FROM_HUB)))
def test_a_set_is_asked_of_the_hub_as_it_is_called_there(name, hub):
    dataset, scoring = open_questions(f"hub:{name}")
    published = SETS.get(name).hub
    asked = (published.name, published.configuration or None, published.split)
    assert asked in hub and len(hub) == (2 if name == "gqa" else 1)
    assert scoring.name == name and len(dataset) >= 1 and not dataset.unreadable
    assert dataset[0].images[0].size == (20, 10)


def test_what_the_hub_is_asked_for(hub):
    for name in ("pope", "mmbench_cn", "gqa"):
        open_questions(f"hub:{name}")
    assert hub == [
        ("lmms-lab/POPE", None, "test"),
        ("lmms-lab/MMBench", "cn", "dev"),
        ("lmms-lab/GQA", "testdev_balanced_images", "testdev"),
        ("lmms-lab/GQA", "testdev_balanced_instructions", "testdev"),
    ]


@pytest.mark.parametrize("name", NOT_FROM_HUB)
def test_a_set_of_which_the_hub_has_not_all_is_refused(name, hub):
    with pytest.raises(UserError, match="cannot be taken from the hub alone: .*--data-root DIR"):
        open_questions(f"hub:{name}")
    assert not hub


def test_no_other_door_touches_the_network(as_json, as_table, monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    for root in (as_json("pope"), as_table("pope")):
        assert len(open_questions("pope", root)[0]) == 6


# -- a folder ------------------------------------------------------------------------------------


def placed(root, name, rows=None):
    """Writes rows of a set into ``root`` as JSON lines."""
    root.mkdir(exist_ok=True)
    stored = as_files(ROWS[name] if rows is None else rows, root / "images")
    (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, stored)))
    return root


def count(name, root):
    return len(open_questions(name, root)[0])


def test_json_lines_are_read(tmp_path):
    assert count("ocrbench", placed(tmp_path / "lines", "ocrbench")) == 2


def test_images_may_lie_in_the_folder_itself_or_where_the_option_says(tmp_path):
    rows = as_files(ROWS["ai2d"], tmp_path)
    (tmp_path / "ai2d.json").write_text(json.dumps(rows))
    assert open_questions("ai2d", tmp_path)[0][0].images
    moved = tmp_path / "elsewhere"
    as_files(ROWS["ai2d"], moved)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    assert open_questions("ai2d", tmp_path, moved)[0][0].images


def test_what_save_to_disk_wrote_is_read(tmp_path):
    table(ROWS["pope"]).save_to_disk(tmp_path / "one")
    splits = {"test": table(ROWS["pope"]), "train": table(ROWS["pope"][:1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "all")
    assert count("pope", tmp_path / "one") == count("pope", tmp_path / "all") == 6


def test_a_parquet_file_whose_name_tells_no_split_is_read(tmp_path):
    table(ROWS["mmstar"]).to_parquet(tmp_path / "mmstar.parquet")
    assert count("mmstar", tmp_path) == 2


def test_of_a_copy_of_the_hub_only_the_split_and_configuration_meant_are_read(tmp_path):
    for split, rows in (("val", ROWS["refcoco_val"]), ("test", ROWS["refcoco_val"][:1]),
                        ("testA", ROWS["refcoco_val"][1:]), ("testB", ROWS["refcoco_val"] * 2)):
        write_split(table(rows), tmp_path / "data", split)
    assert count("refcoco_testA", tmp_path) == 1
    assert count("refcoco_testB", tmp_path) == 6
    assert count("refcoco_val", tmp_path) == 3
    for configuration, rows in (("en", ROWS["mmbench_en"]), ("cn", ROWS["mmbench_cn"][:1])):
        write_split(table(rows), tmp_path / configuration, "dev")
    assert count("mmbench_en", tmp_path) == 3 and count("mmbench_cn", tmp_path) == 1


def write_split(rows, folder, split):
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_another_split_is_not_taken_for_the_one_meant(tmp_path):
    write_split(table(ROWS["mmbench_en"]), tmp_path, "test")
    with pytest.raises(UserError, match="holds the splits 'test', but no 'dev'"):
        open_questions("mmbench_en", tmp_path)


def test_another_configuration_is_not_taken_for_the_one_meant(tmp_path):
    for name in ("mmbench_cn", "scienceqa_img"):
        hub = SETS.get(name).hub
        write_split(table(ROWS[name]), tmp_path / hub.configuration, hub.split)
        assert count(name, tmp_path)
    for name in ("mmbench_en", "scienceqa"):
        with pytest.raises(UserError, match="holds nothing of .* nor a table of split"):
            open_questions(name, tmp_path)


def test_splits_saved_together_are_those_of_the_set_that_is_named(tmp_path):
    datasets.DatasetDict({"dev": table(ROWS["mmbench_en"])}).save_to_disk(tmp_path)
    assert count("mmbench_en", tmp_path) == 3


def test_gqa_needs_its_images_too(tmp_path):
    questions, _ = apart(ROWS["gqa"])
    write(table(questions), tmp_path, SETS.get("gqa").hub)
    with pytest.raises(UserError, match="images in a table of their own, .*testdev_balanced_im"):
        open_questions("gqa", tmp_path)


# -- the sets' own files -------------------------------------------------------------------------


def test_vqav2_as_it_is_published(tmp_path):
    rows = as_files(ROWS["vqav2"], tmp_path / "val2014")
    picture = next((tmp_path / "val2014").glob("*.png"))
    picture.rename(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg")
    fields = ("question_id", "image_id", "question")
    questions = [{name: row[name] for name in fields} for row in rows]
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({"data_subtype": "val2014", "questions": questions})
    )
    fields = ("question_id", "image_id", "answers", "answer_type", "multiple_choice_answer")
    annotations = [{name: row[name] for name in fields} for row in rows]
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(
        json.dumps({"annotations": annotations})
    )
    dataset, scoring = open_questions("vqav2", tmp_path)
    assert not dataset.unreadable and dataset[0].images
    found = scoring.figures(["Dark.", "two"], dataset.samples)
    assert found["accuracy"] == pytest.approx(0.3)
    assert [sample.question_type for sample in dataset.samples] == ["other", "number"]


def test_a_question_of_vqav2_without_its_annotation_is_refused(tmp_path):
    question = {"question_id": 1, "image_id": 2, "question": "what ?"}
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({"data_subtype": "val2014", "questions": [question]})
    )
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="Sample '1' .* lacks a list of texts in 'answers'"):
        open_questions("vqav2", tmp_path)


def test_gqa_as_it_is_published(tmp_path):
    rows = as_files(ROWS["gqa"], tmp_path / "images")
    next((tmp_path / "images").glob("*.png")).rename(tmp_path / "images" / "n1.jpg")
    published = {row["id"]: {name: row[name] for name in ("imageId", "question", "answer", "types")}
                 for row in rows}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(published))
    dataset, scoring = open_questions("gqa", tmp_path)
    assert [sample.id for sample in dataset.samples] == ["201", "202"] and dataset[1].images
    found = scoring.figures(["no", "T-shirt."], dataset.samples)
    assert (found["accuracy_verify"], found["accuracy_query"]) == (0.0, 1.0)


def test_textvqa_as_it_is_published_has_no_ocr_tokens(tmp_path):
    rows = as_files(ROWS["textvqa"], tmp_path / "train_images")
    next((tmp_path / "train_images").glob("*.png")).rename(tmp_path / "train_images" / "a1.jpg")
    fields = ("image_id", "question_id", "question", "answers")
    published = {"data": [{name: row[name] for name in fields} for row in rows]}
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps(published))
    dataset, _ = open_questions("textvqa", tmp_path)
    assert len(dataset) == 2 and dataset[0].images
    with pytest.raises(UserError, match="holds nothing of TextVQA, validation, OCR tokens"):
        open_questions("textvqa_ocr", tmp_path)


def test_vizwiz_as_it_is_published(tmp_path):
    (row, _) = as_files(ROWS["vizwiz"], tmp_path / "val")
    answers = [{"answer": answer, "answer_confidence": "yes"} for answer in row["answers"]]
    published = {"image": row["image"], "question": "What is this?", "answers": answers,
                 "answer_type": "unanswerable", "answerable": 0}
    (tmp_path / "val.json").write_text(json.dumps([published]))
    dataset, scoring = open_questions("vizwiz", tmp_path)
    assert dataset[0].images and scoring.score("Unanswerable", dataset.samples[0]) == 1.0


def test_chair_of_the_annotations_of_coco(tmp_path):
    as_files(ROWS["chair"], tmp_path / "val2014")
    names = sorted(file.name for file in (tmp_path / "val2014").iterdir())
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    notes = tmp_path / "annotations"
    notes.mkdir()
    (notes / "captions_val2014.json").write_text(json.dumps({
        "info": {}, "images": images,
        "annotations": [{"id": 1, "image_id": 1, "caption": "A puppy."},
                        {"id": 2, "image_id": 0, "caption": "A field."}],
    }))
    (notes / "instances_val2014.json").write_text(json.dumps({
        "images": images, "categories": [{"id": 6, "name": "bus"}, {"id": 1, "name": "person"}],
        "annotations": [{"image_id": 1, "category_id": 6}, {"image_id": 1, "category_id": 6}],
    }))
    (tmp_path / "synonyms.txt").write_text("person, man\ndog, puppy\nbus\n")
    dataset, scoring = open_questions("chair", tmp_path)
    assert [sample.facts["references"] for sample in dataset.samples] == [
        ["A field."], ["A puppy.", "bus"]
    ]
    found = scoring.figures(["A man.", "A dog."], dataset.samples)
    assert found == {"chair_s": 0.5, "chair_i": 0.5, "recall": 0.5}


def test_chair_without_its_synonyms_is_refused(as_json):
    root = as_json("chair")
    (root / "synonyms.txt").unlink()
    with pytest.raises(UserError, match="synonyms of CHAIR cannot be read"):
        open_questions("chair", root)


# -- neither -------------------------------------------------------------------------------------


NEITHER = {
    "a name nearly right": (["pop"], "no evaluation set of that name. The nearest names are pope"),
    "in capitals": (["MMStar"], "The nearest names are mmstar"),
    "nothing like it": (["xyz"], "no evaluation set of that name. Give the path"),
    "a set from nowhere": (["pope"], "--data-root DIR, or the hub by --data hub:pope"),
    "of the hub": (["hub:refcoco"], "There is no evaluation set 'refcoco'. The nearest names are"),
    "of the hub, nothing": (["hub:"], "There is no evaluation set ''. Choose one that"),
    "of a folder": (["gq", "--data-root", "."], "no evaluation set 'gq'. The nearest names are g"),
    "both": (["hub:gqa", "--data-root", "."], "nothing is read from --data-root"),
    "no folder": (["gqa", "--data-root", "gone"], "--data-root 'gone' is no folder"),
    "an empty folder": (
        ["gqa", "--data-root", "{tmp}"],
        "holds nothing of GQA, .*: neither 'testdev_balanced_questions.json', 'gqa.json', "
        "'gqa.jsonl' nor a table of split 'testdev'",
    ),
}


@pytest.mark.parametrize("case", NEITHER)
def test_what_is_neither_a_set_nor_a_file_is_told(case, tmp_path, capsys):
    given, message = NEITHER[case]
    given = [word.format(tmp=tmp_path) for word in given]
    arguments = ["--pruner", "random", "--budget", "4", "--base", "base", "--data", *given]
    assert evaluate.main([*arguments, "--output", str(tmp_path / "rows.json")]) == 2
    with pytest.raises(UserError, match=message):
        raise UserError(capsys.readouterr().err)


def test_a_file_that_is_called_as_a_set_is_a_file(conversations, monkeypatch):
    monkeypatch.chdir(conversations.parent)
    conversations.rename("pope")
    dataset, scoring = open_questions("pope", None)
    assert scoring is None and len(dataset) == 8


def test_another_number_of_rows_is_warned_of(as_json, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        open_questions("pope", as_json("pope"))
    assert "has 6 rows for POPE, random, popular and adversarial, of which 9000" in caplog.text
    caplog.clear()
    for name, rows in (("refcoco_testA", 2), ("seed_image", 2), ("scienceqa_img", 1)):
        monkeypatch.setattr(SETS.get(name), "rows", rows)  # of those that ask something
        open_questions(name, as_json(name))
    assert not caplog.text


# -- evaluate.py ---------------------------------------------------------------------------------


def evaluated(arguments, base_folder, tmp_path):
    output = tmp_path / "rows.json"
    usual = ["--pruner", "random", "--budget", "4", "--base", str(base_folder), "--no-controls"]
    assert evaluate.main([*usual, *arguments, "--output", str(output)]) == 0
    return json.loads(output.read_text())


def test_a_set_is_evaluated_by_its_own_figure(base_folder, as_json, tmp_path):
    given = ["--data", "pope", "--data-root", str(as_json("pope")), "--max-new-tokens", "2"]
    full, random = evaluated(given, base_folder, tmp_path)
    for row in (full, random):
        assert row["metric"] == "f1" and row["n"] == 6
        # of answers that are all "yes" or all "no", as those of random weights are
        assert row["accuracy"] in (pytest.approx(2 / 3), 0.0)
        assert set(row["by_type"]) == {"random", "popular", "adversarial"}
    assert full["figures"]["accuracy"] == 0.5


def test_an_answer_is_as_long_as_the_set_says(base_folder, as_json, tmp_path, monkeypatch):
    seen = []

    class Questions(cli.Questions):
        def __init__(self, *given, **options):
            seen.append((options["max_new_tokens"], type(options["scoring"]).__name__))
            super().__init__(*given, **options)

    monkeypatch.setattr(cli, "Questions", Questions)
    monkeypatch.setattr(SETS.get("docvqa"), "max_new_tokens", 3)
    data = ["--data", "docvqa", "--data-root", str(as_json("docvqa"))]
    evaluated(data, base_folder, tmp_path)
    evaluated([*data, "--max-new-tokens", "2"], base_folder, tmp_path)
    assert seen == [(3, "DocVqa"), (2, "DocVqa")]


def test_limits_count_questions(base_folder, as_json, tmp_path):
    """Not rows, of which the first asks two."""
    data = ["--data", "refcoco_testA", "--data-root", str(as_json("refcoco_testA"))]
    full, _ = evaluated([*data, "--limit", "1", "--max-new-tokens", "2"], base_folder, tmp_path)
    assert full["n"] == 1
