"""Sentences under a table: what they claim holds of the numbers they are made of."""

from dataclasses import replace

import numpy as np
import pytest

from rcp.evaluation.report import notes
from rcp.evaluation.report.rows import ResultRow

FULL = ResultRow("full", 0.9, 0.0, {}, 1.0, 144.0, 144.0, 2e9, 2048, 1.0, 1, 40)


def row(method, tokens=16.0, **changes):
    return replace(FULL, method=method, mean_tokens=tokens, **changes)


def right(count):
    """The scores of forty questions of which the first ones are right."""
    return np.array([1.0] * count + [0.0] * (40 - count))


def said(first, second, tokens=16.0, control="random"):
    rows = [FULL, row("rcp", tokens), row("blank_image", 144.0), row(control)]
    scores = {"full": right(36), "rcp": first, "blank_image": right(0), control: second}
    return notes.about_random(rows, scores)


def test_five_gained_questions_are_no_proof_but_six_are():
    """Exact, two-sided: 2 / 2^5 = 0.0625, 2 / 2^6 = 0.03125."""
    (sentence,) = said(right(25), right(20))
    assert sentence.startswith(
        "No better than random at equal tokens: rcp (62.5% against 50.0% of random, p = 0.062)."
    )
    assert said(right(26), right(20)) == []


def test_what_is_clearly_worse_is_no_better():
    (sentence,) = said(right(5), right(20))
    assert "rcp (12.5% against 50.0% of random, p = 6.1e-05)" in sentence


def test_equal_answers_are_no_better():
    assert "p = 1)" in said(right(20), right(20))[0]


@pytest.mark.parametrize("tokens, compared", [(16.1, True), (15.9, True), (16.3, False)])
def test_only_equal_tokens_are_compared(tokens, compared):
    assert bool(said(right(20), right(20), tokens)) is compared


def test_random_tokens_at_the_input_are_random_tokens():
    assert "of random_input" in said(right(20), right(20), control="random_input")[0]


def test_the_full_model_the_blank_image_and_random_itself_are_not_in_question():
    rows = [FULL, row("blank_image", 144.0), row("random", 144.0), row("random_input", 144.0)]
    scores = {each.method: right(3) for each in rows}
    assert notes.about_random(rows, scores) == []


@pytest.mark.parametrize("retained, told", [(0.61, True), (0.6, False), (0.2, False)])
def test_a_blank_image_that_keeps_much_is_told(retained, told):
    rows = [FULL, row("rcp", retained=0.99), row("blank_image", retained=retained)]
    found = notes.about_blank(rows)
    assert bool(found) is told
    if told:
        assert "keeps 61.0% of the full model's accuracy, more than 60%" in found[0]
