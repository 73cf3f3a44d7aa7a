"""VQA accuracy. Cases follow vqaEval.py (GT-Vision-Lab/VQA) and the EvalAIAnswerProcessor (mmf)."""

import json
from pathlib import Path

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.vqa_accuracy import EvalAiVqaAccuracy, VqaV2Accuracy
from rcp.evaluation.metrics.vqa_text import CONTRACTIONS, evalai, vqa_v2, without_punctuation

# 60 rows made here, scored by the two official functions
ROWS = [json.loads(line) for line in Path(__file__).with_name("vqa_rows.jsonl").open("rb")]


def ten(*counted):
    return [answer for answer, count in counted for _ in range(count)]


# Leave-one-out over ten with m matches: (m · min(1, (m-1)/3) + (10-m) · min(1, m/3)) / 10
@pytest.mark.parametrize(
    ("matches", "score"),
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (9, 1), (10, 1)],
)
@pytest.mark.parametrize("metric", [VqaV2Accuracy, EvalAiVqaAccuracy])
def test_score_by_the_number_of_people_who_agree(metric, matches, score):
    answers = ten(("red", matches), ("blue", 10 - matches))
    assert metric().score("red", answers) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        # the prediction loses its article, becomes lower case and digits; the answers stay
        ("The Red", ten(("red", 9), ("blue", 1)), 1),
        ("Two", ten(("2", 9), ("3", 1)), 1),
        ("Two", ten(("two", 9), ("3", 1)), 0),
        ("red", ten(("Red", 9), ("blue", 1)), 0),
        ("table", ten(("the table", 9), ("desk", 1)), 0),
        # the answers lose punctuation only if they are not all equal
        ("yes", ten(("yes.", 9), ("no", 1)), 1),
        ("yes", ten(("yes.", 10)), 0),
        ("yes.", ten(("yes", 10)), 1),
        # a contraction without its apostrophe gets it back in the prediction alone
        ("dont know", ten(("don't know", 5), ("no", 5)), 1),
        ("dont know", ten(("dont know", 5), ("no", 5)), 0),
        ("", ten(("red", 10)), 0),
    ],
)
def test_vqa_v2_touches_only_punctuation_of_the_answers(prediction, answers, score):
    assert VqaV2Accuracy().score(prediction, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("The Red", ten(("red", 9), ("blue", 1)), 1),
        ("Two", ten(("two", 9), ("3", 1)), 1),
        ("red", ten(("Red", 9), ("blue", 1)), 1),
        ("table", ten(("the table", 9), ("desk", 1)), 1),
        ("yes", ten(("yes.", 10)), 1),
        ("1,000", ten(("1000", 10)), 1),
        ("what time?", ten(("what time", 10)), 1),
        ("dont know", ten(("don't know", 10)), 1),
        ("none", ten(("0", 2), ("zero", 1), ("many", 7)), 0.9),
        ("dog's", ten(("dog 's", 10)), 1),
        ("red", ten(("reddish", 10)), 0),
    ],
)
def test_evalai_processes_both_sides(prediction, answers, score):
    assert EvalAiVqaAccuracy().score(prediction, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "processed"),
    [
        ("coca-cola", "coca cola"),         # touches no space: becomes one
        ("coca - cola", "coca  cola"),      # touches a space: vanishes
        ("1,000-2", "10002"),               # a comma between digits: all marks vanish
        ("st. louis", "st louis"),
        ("5.30", "5.30"),                   # a period before a digit stays
        ("end.", "end"),
        ("'quoted'", "'quoted'"),           # apostrophes are no punctuation here
        ("5:30", "5:30"),                   # neither are colons
        ("." * 40, "." * 8),                # at most 32 periods go
        ("(a)", " a "),
    ],
)
def test_punctuation(text, processed):
    assert without_punctuation(text) == processed


def test_processors_differ_where_a_comma_stands_between_digits():
    assert vqa_v2("1,000 t-shirts") == "1000 tshirts"
    assert evalai("1,000 t-shirts") == "1000 t shirts"


def test_contractions_hold_the_pair_that_the_official_table_turns_round():
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert CONTRACTIONS["couldn'tve"] == CONTRACTIONS["couldnt've"] == "couldn't've"


@pytest.mark.parametrize("metric", [VqaV2Accuracy, EvalAiVqaAccuracy])
def test_recorded_rows_score_as_officially(metric):
    whole = metric()
    for row in ROWS:
        assert whole.score(row["prediction"], row["answers"]) == pytest.approx(
            row[metric.name], abs=1e-6
        )
    whole.update([row["prediction"] for row in ROWS], [row["answers"] for row in ROWS])
    mean = sum(row[metric.name] for row in ROWS) / len(ROWS)
    assert whole.compute()["accuracy"].item() == pytest.approx(mean, abs=1e-6)


def test_other_than_ten_answers_are_refused():
    with pytest.raises(UserError, match="are 3 answers"):
        VqaV2Accuracy().update(["red"], [["red"] * 3])
