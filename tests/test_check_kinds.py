"""Accuracy by kind: each kind's own metrics by hand, and a file that goes on where it was cut."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data import check_kinds as checked
from data.check_kinds import ALL, check_kinds, measured, page
from data.kinds import KINDS, captions

FOLDER = Path(__file__).parent.parent / "data" / "tiny-vlm"


def said(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[Any]:
    """Answers in turn to the images, to grey ones, and with a ninth; what was asked with."""
    given, asked = iter(answers), []

    def answered(model: Any, processor: Any, shown: Any, *rest: Any) -> list[str]:
        asked.append((shown, *rest))
        return next(given)

    monkeypatch.setattr(checked, "answered", answered)
    return asked


def test_places_are_scored_by_overlap_on_the_images_on_grey_and_with_a_ninth(monkeypatch):
    true = [e.turns[0][1] for e in islice(KINDS["places"].examples("test", 0), 4)]
    asked = said(monkeypatch, [*true[:3], "left"], ["[0.0, 0.0, 0.0, 0.0]"] * 4, [true[0]] * 4)
    result = measured(None, None, KINDS["places"], 4, 0, "test")
    assert (result["score"], result["blank"]) == (75.0, 0.0)
    assert result["random_ninth"] == result["constant"] == 25.0, "each box is one of the answers"
    assert (result["mean_iou"], result["unparsable"]) == (75.0, 25.0)
    assert result["by_type"] == {"place": 75.0} and result["metric"] == "IoU >= 0.5"
    assert [keep for *_, keep, _ in asked] == [None, None, 1 / 9]
    grey = asked[1][0][0][0][0]
    assert grey.getcolors() == [(96 * 96, (128, 128, 128))]


def test_captions_have_precision_and_recall_of_all_things_together():
    found = checked._things(["a red star, a blue ring", ""], ["a red star", "a red cross, 2 red"])
    assert found == {"precision": 1 / 2, "recall": 1 / 3}
    assert captions.overlap("a red star, a red star", "a red star") == (1, 2, 1)


def test_strings_are_scored_by_what_is_nearly_right(monkeypatch):
    true = [e.turns[0][1] for e in islice(KINDS["strings"].examples("test", 0), 4)]
    near = true[3][:-1] + ("C" if true[3][-1] != "C" else "E")  # one of nine characters
    said(monkeypatch, [*true[:3], near], [""] * 4, [""] * 4)
    result = measured(None, None, KINDS["strings"], 4, 0, "test")
    assert result["score"] == 75.0 and len(true[3]) == 9
    assert result["anls"] == pytest.approx(100 * (3 + 8 / 9) / 4, abs=0.01)
    assert set(result["by_type"].values()) == {100.0, 0.0}


def test_the_last_question_of_a_dialogue_counts(monkeypatch):
    last = [e.turns[-1][1] for e in islice(KINDS["dialogues"].examples("test", 0), 3)]
    asked = said(monkeypatch, last, ["none"] * 3, ["none"] * 3)
    assert measured(None, None, KINDS["dialogues"], 3, 0, "test")["score"] == 100.0
    assert all(len(turns) > 1 for _, turns in asked[0][0])


def test_kinds_that_were_measured_of_these_weights_and_questions_are_not_again(
    monkeypatch, tmp_path
):
    done: list[str] = []

    def measure(model: Any, processor: Any, kind: Any, n: int, *rest: Any) -> dict[str, Any]:
        if len(done) == 2 and not tmp_path.joinpath("cut").exists():
            tmp_path.joinpath("cut").touch()
            raise KeyboardInterrupt
        done.append(kind.name)
        return {"metric": "exact match", "score": 50.0, "blank": 1.0, "random_ninth": 2.0,
                "constant": 3.0, "by_type": {"one": 50.0}}

    monkeypatch.setattr(checked, "measured", measure)
    output, folder = tmp_path / "out" / "world.json", tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    with pytest.raises(KeyboardInterrupt):
        check_kinds(folder, output, 5, 0, "test")
    assert list(json.loads(output.read_text())["kinds"]) == done == list(ALL)[:2]
    check_kinds(folder, output, 5, 0, "test")
    assert done == list(ALL)
    check_kinds(folder, output, 5, 0, "test")
    assert done == list(ALL), "nothing is left to do"
    check_kinds(folder, output, 6, 0, "test")
    assert done == 2 * list(ALL), "other questions"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\0\0")
    check_kinds(folder, output, 6, 0, "test")
    assert done == 3 * list(ALL), "other weights"
    text = output.with_suffix(".md").read_text()
    assert text == page(json.loads(output.read_text()))
    assert "| strings | exact match | 50.0 | 1.0 | 2.0 | 3.0 |  |" in text
    assert "| clips | one | 50.0 |" in text
