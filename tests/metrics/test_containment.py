"""Containment. Cases follow example.py of Yuliang-Liu/MultimodalOCR (OCRBench)."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.containment import Containment


@pytest.mark.parametrize(
    ("prediction", "references", "dataset", "right"),
    [
        ("CENTRE", ["centre"], "IIIT5K", 1),
        ("The word is Centre.", ["CENTRE"], "IIIT5K", 1),
        ("center", ["centre"], "IIIT5K", 0),
        ("", ["centre"], "IIIT5K", 0),
        ("two\nlines", ["two lines"], "textVQA", 1),
        ("two  lines", ["two lines"], "textVQA", 0),            # spaces count
        ("it says 42", ["41", "42"], "docVQA", 1),              # any reference
        ("142", ["42"], "docVQA", 1),                           # inside a longer number too
        ("x ^ { 2 }", ["x^{2}"], "HME100k", 1),                 # formulas: without spaces
        ("X ^ { 2 }", ["x^{2}"], "HME100k", 0),                 # and with their case
        ("\\frac { A } { b }", ["\\frac{A}{b}"], "HME100k", 1),
        ("x ^ { 2 }", ["x^{2}"], "docVQA", 0),
    ],
)
def test_what_is_right(prediction, references, dataset, right):
    metric = Containment()
    metric.update([prediction], [references], [dataset])
    assert metric.compute()["right"].item() == right


def test_the_score_is_a_number_of_samples():
    metric = Containment()
    metric.update(["a", "b", "c"], [["a"], ["b"], ["x"]], ["IIIT5K"] * 3)
    found = metric.compute()
    assert found["right"].item() == 2 and found["accuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("references", [[], ["a", " "]])
def test_references_that_say_nothing_are_refused(references):
    with pytest.raises(UserError, match="leave out empty ones"):
        Containment().update(["a"], [references], ["IIIT5K"])
