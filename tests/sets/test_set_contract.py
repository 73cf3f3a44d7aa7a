"""What every published set keeps: it is whole, described, asked and scored, end to end."""

import math
import re

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rcp.__main__ import main
from rcp.base_model.answering import greedy_answers
from rcp.conversations.sample import PLACEHOLDER
from rcp.evaluation.answers import Answer
from rcp.evaluation.metrics.answer_metric import METRICS
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.evaluation.metrics.tally import Answered, Tally
from rcp.evaluation.preparation import Preparation
from rcp.evaluation.report.samples import write_samples
from rcp.evaluation.scoring import Scoring
from rcp.evaluation.sets.base import SETS
from rcp.evaluation.sets.door import open_questions
from rcp.evaluation.sets.listing import all_sets
from tests.documents import read
from tests.sets.published import ROWS

pytest_plugins = ["tests.training_fixtures"]

every_set = pytest.mark.parametrize("name", sorted(ROWS))
ASKED_FOR = """vqav2 gqa textvqa textvqa_ocr vizwiz pope mme mmbench_en mmbench_cn scienceqa
    scienceqa_img seed_image mmmu mmstar ai2d realworldqa mvbench video_mme docvqa infovqa chartqa
    ocrbench refcoco_val refcoco_testA refcoco_testB refcoco+_val refcoco+_testA refcoco+_testB
    refcocog_val refcocog_test chair""".split()
NEW_TOKENS = 4


@pytest.fixture(scope="module")
def base(base_folder):
    """The tiny model and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    return model, AutoProcessor.from_pretrained(base_folder)


def test_every_set_is_under_contract():
    ours = {name for name in SETS.names() if SETS.get(name).__module__.startswith("rcp.")}
    assert ours == set(ROWS) == set(ASKED_FOR)


@every_set
def test_a_set_says_all_of_itself(name):
    one = SETS.get(name)
    assert one.title and one.prompt and one.prompt_source and one.parsing
    assert one.rows > 0 and one.max_new_tokens > 0
    assert one.percent == (name not in ("mme", "ocrbench"))  # points, and a number of questions
    assert re.fullmatch(r"hf:[\w-]+/[\w-]+(/[\w-]+)?:\w+", one.hub.source)
    assert one.metric in METRICS.names()
    assert not any(text.endswith(".") for text in (one.prompt_source, one.parsing))


@every_set
def test_a_set_has_its_row_and_its_paragraph_in_the_page(name):
    page = read("docs/sets.md")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert f" {SETS.get(name).rows} " in row and f"`{SETS.get(name).primary}`" in row
    assert f"### `{name}`\n\n```text\n{SETS.get(name).prompt}\n```\n" in page


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["sets", "--markdown"]) == 0
    assert capsys.readouterr().out == read("docs/sets.md"), (
        "run: python -m rcp sets --markdown > docs/sets.md"
    )


def test_the_command_lists_the_sets(capsys):
    assert main(["sets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [one.name for one in all_sets()]


@every_set
def test_a_table_is_asked_as_its_files_are(name, as_json, as_table):
    """The same questions, references and images, whichever way the rows are stored."""
    files, _ = open_questions(name, as_json(name))
    table, _ = open_questions(name, as_table(name))
    assert not files.unreadable and not table.unreadable
    for ours, theirs in zip(files.samples, table.samples, strict=True):
        assert (ours.id, ours.question, ours.answer) == (theirs.id, theirs.question, theirs.answer)
        assert ours.facts == theirs.facts and ours.question_type == theirs.question_type
    for number in range(len(files)):
        images, others = files[number].images, table[number].images
        assert [image.tobytes() for image in images] == [image.tobytes() for image in others]


@every_set
def test_a_set_is_read_prompted_answered_and_scored(name, base, as_json):
    model, processor = base
    dataset, scoring = open_questions(name, as_json(name))
    assert isinstance(scoring, Scoring) and scoring.name == name
    items = [dataset[number] for number in range(len(dataset))]
    for item in items:
        assert item.sample.question.count(PLACEHOLDER) == len(item.images)
    batch = Preparation(model, processor)(items)
    with torch.no_grad():
        answers = greedy_answers(model, processor, batch["inputs"], NEW_TOKENS)
    figures = scoring.figures(answers, dataset.samples)
    assert scoring.primary in figures and all(isinstance(one, float) for one in figures.values())
    assert math.isnan(figures[scoring.primary]) == (name == "mme")  # has twelve other categories
    scores = [scoring.score(*pair) for pair in zip(answers, dataset.samples)]
    assert all(0.0 <= score <= 1.0 for score in scores)


@every_set
def test_the_references_themselves_score_fully(name, as_json):
    """But for VQAv2's, whose number words are not what its own rules make of a prediction."""
    dataset, scoring = open_questions(name, as_json(name))
    answers = [sample.answer for sample in dataset.samples]
    if name == "chair":
        answers = [f"{sample.answer} A bus." for sample in dataset.samples]
    scores = [scoring.score(*pair) for pair in zip(answers, dataset.samples)]
    assert scores == ([1.0, 0.0] if name == "vqav2" else [1.0] * len(scores))


@every_set
def test_without_answers_there_are_no_figures(name, as_json):
    _, scoring = open_questions(name, as_json(name))
    nothing = scoring.figures([], [])
    assert scoring.primary in nothing
    assert math.isnan(nothing[scoring.primary]) or nothing[scoring.primary] == 0.0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("vqav2", [["dark", "light"], ["two"]]),
        ("refcoco_testA", None),
        ("scienceqa_img", None),
    ],
)
def test_every_accepted_answer_is_shown_once(name, shown, as_json):
    dataset, scoring = open_questions(name, as_json(name))
    expected = [[sample.answer] for sample in dataset.samples] if shown is None else shown
    assert [scoring.references(sample) for sample in dataset.samples] == expected


def test_they_stand_beside_each_answer_in_the_file(as_json, tmp_path):
    dataset, scoring = open_questions("vqav2", as_json("vqav2"))
    answers = [Answer(n, "light", Occupancy(4, 2), 8.0, 1.0) for n in range(2)]
    tally = Tally(None, scoring, dataset.samples, answers)
    path = tmp_path / "rows.samples.parquet"
    write_samples([Answered("full", 0, tally)], tmp_path, {}, path)
    found = pq.read_table(path).to_pylist()
    assert [row["references"] for row in found] == [["dark", "light"], ["two"]]
    assert [row["score"] for row in found] == [1.0, 0.0]
