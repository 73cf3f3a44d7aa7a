"""Rows that lack or garble something: each a fault of its own, said in a sentence."""

import json
from pathlib import Path

import pytest

from rcp.conversations.rows import Broken, Source
from rcp.conversations.sample import Unreadable
from rcp.errors import UserError
from rcp.evaluation.sets.base import SETS
from rcp.evaluation.sets.door import open_questions
from tests.sets.published import ONE, ROWS, SYNONYMS, as_files

SAME = {name for name in ROWS if name.startswith("refcoco")} - {"refcoco_testA"}
every_set = pytest.mark.parametrize("name", sorted(set(ROWS) - SAME))
JUNK = (None, "", [], {}, 3.5, -1, True, "E", ["x", None], [[]], {"bytes": None, "path": None},
        float("nan"), "\ud800", "<image>", b"no image", 10**30)


@every_set
def test_whatever_stands_in_a_column_a_row_is_read_or_refused(name, tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    one = SETS.get(name)(tmp_path, tmp_path)
    source = Source(Path("rows"), tmp_path, one.reading)
    (row, *_) = as_files(ROWS[name], tmp_path)
    assert source.samples(row, 0)
    for column in row:
        rest = {key: value for key, value in row.items() if key != column}
        for changed in [rest, *({**row, column: junk} for junk in JUNK)]:
            try:
                for sample in source.samples(changed, 0):
                    assert 0.0 <= one.score("", sample) <= 1.0
            except Unreadable as fault:
                assert fault.row == 0


@every_set
def test_what_is_no_row_is_refused(name, tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    source = Source(Path("rows"), tmp_path, SETS.get(name)(tmp_path, tmp_path).reading)
    for junk in (None, [], "row", 3, {"image": "0.png"}, Broken("line 3")):
        with pytest.raises(Unreadable):
            source.samples(junk, 0)


REFUSED = {
    "no image": ("pope", {"image": None}, "lacks an image in 'image' (it holds None)"),
    "no such column": ("ai2d", {"question": ...}, "lacks text in 'question' (there is no such"),
    "no answer": ("chartqa", {"answer": None}, "lacks text in 'answer'"),
    "nine answers": ("textvqa", {"answers": ["a"] * 9}, "cannot be scored: .* are 9 answers"),
    "no letter": ("seed_image", {"answer": "E"}, "'E' names none of 4 options"),
    "a letter with no option": ("mmbench_en", {"answer": "C"}, "'C' names none of 2 options"),
    "a number with no option": ("scienceqa", {"answer": 2}, "option 2, counted from 0, .* 2 opt"),
    "below the first option": ("ai2d", {"answer": "-1"}, "option -1, counted from 0"),
    "neither yes nor no": ("mme", {"answer": "maybe"}, "lacks one of yes, no in 'answer'"),
    "no category": ("mme", {"category": "smell"}, "lacks one of existence, count"),
    "no split": ("pope", {"category": "easy"}, "lacks one of random, popular, adversarial"),
    "no type": ("chartqa", {"type": "human"}, "lacks one of human_test, augmented_test"),
    "no index": ("mmbench_en", {"index": "first"}, "lacks a whole number in 'index'"),
    "a negative index": ("mmbench_en", {"index": -3}, "The index -3 is negative"),
    "options that are none": ("mmmu", {"options": "__import__('os')"}, "has no list of options"),
    "an image that is not there": ("mmmu", {"image_1": None}, "lacks an image in 'image_1'"),
    "three edges": ("refcoco_testA", {"bbox": [1.0, 2.0, 3.0]}, r"has the box \[1.0, 2.0, 3.0\]"),
    "an empty box": ("refcoco_testA", {"bbox": [1.0, 2.0, 0.0, 3.0]}, "is not a box"),
    "a video": ("mvbench", {"frames": None}, "names a video, but has None under 'frames'"),
    "a video too": ("video_mme", {"frames": ...}, "names a video, .* Nothing here decodes videos"),
    "no such candidate": ("mvbench", {"answer": "blue"}, "has option -1"),
    "no objects": ("chair", {"objects": ...}, "has no list 'objects'"),
    "no OCR tokens": ("textvqa_ocr", {"ocr_tokens": ...}, "lacks a list of texts in 'ocr_tokens'"),
    "an empty reference": ("ocrbench", {"answer": [" "]}, "is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_is_refused_by_name_and_the_others_are_asked(case, as_json):
    name, change, message = REFUSED[case]
    row = {key: value for key, value in {**ROWS[name][0], **change}.items() if value is not ...}
    dataset, _ = open_questions(name, as_json(name, [row, *ROWS[name]]))
    (fault,) = dataset.unreadable
    assert fault.row == 0 and str(fault).startswith("Sample '")
    with pytest.raises(Unreadable, match=message.replace("(", r"\(").replace(")", r"\)")):
        raise fault
    assert 0 not in dataset.numbers and dataset.samples


@pytest.mark.parametrize("word", ["none", "None", "NaN", "0"])
def test_a_word_for_nothing_is_an_answer_as_any_other(word, as_json):
    rows = [{**ROWS["gqa"][0], "answer": word}, {**ROWS["gqa"][1], "answer": float("nan")}]
    dataset, scoring = open_questions("gqa", as_json("gqa", rows))
    assert [sample.answer for sample in dataset.samples] == [word] and dataset.unreadable
    assert scoring.score(word.lower(), dataset.samples[0]) == 1.0


def test_hints_and_options_that_tables_call_nan_are_none(as_json):
    row = ROWS["mmbench_en"][0]
    rows = [{**row, "index": n, "hint": hint, "C": hint}
            for n, hint in enumerate(("nan", None, "", float("nan"), "NaN", "none"))]
    dataset, _ = open_questions("mmbench_en", as_json("mmbench_en", rows))
    assert len({sample.question for sample in dataset.samples}) == 1
    assert all(sample.facts["options"] == ["red", "dark"] for sample in dataset.samples)


def test_an_image_file_that_is_gone_is_told_when_its_question_comes(as_json):
    root = as_json("pope")
    rows = json.loads((root / "pope.json").read_text())
    rows[2]["image"] = "gone.png"
    (root / "pope.json").write_text(json.dumps(rows))
    dataset, _ = open_questions("pope", root)
    with pytest.raises(Unreadable, match="gone.png', which does not exist"):
        dataset[2]
    assert dataset[3].images[0].size == (20, 10)


def test_a_box_cannot_be_measured_without_its_image(as_json):
    root = as_json("refcoco_testA")
    rows = json.loads((root / "refcoco_testA.json").read_text())
    rows[0]["image"] = "gone.png"
    (root / "refcoco_testA.json").write_text(json.dumps(rows))
    dataset, _ = open_questions("refcoco_testA", root)
    (fault,) = dataset.unreadable
    assert "so that its box has no measure" in str(fault) and len(dataset) == 1


def test_an_index_of_mmbench_that_comes_twice_is_refused(as_json):
    rows = [*ROWS["mmbench_en"], ROWS["mmbench_en"][1]]
    with pytest.raises(UserError, match="index 1000003 of MMBench is there 2 times"):
        open_questions("mmbench_en", as_json("mmbench_en", rows))


def test_an_image_of_mme_that_is_asked_about_thrice_is_refused(as_json):
    rows = [*ROWS["mme"], {**ROWS["mme"][0], "image": ONE}]
    with pytest.raises(UserError, match="1 images of MME .* 'count/count/1.png'"):
        open_questions("mme", as_json("mme", rows))


def test_ids_that_come_again_are_questions_of_their_own(as_json):
    dataset, _ = open_questions("pope", as_json("pope", ROWS["pope"] * 2))
    assert len({sample.id for sample in dataset.samples}) == 12


def test_a_set_without_one_sound_row_is_refused(as_json):
    with pytest.raises(UserError, match="holds no row that can be read. Sample '0'"):
        open_questions("pope", as_json("pope", [{**ROWS["pope"][0], "image": None}]))
