"""Letters. Cases follow LLaVA's eval_science_qa.py, MMMU's eval_utils.py, MMStar and Video-MME."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.letter_choice import LetterChoice
from rcp.evaluation.metrics.letters import RULES

FOUR = ["a cat", "a dog", "a red bird", "no animal"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("B. a dog", "B"),
        ("B.", None),                              # "B. " takes a space after the period
        ("b", None),
        ("The answer is C.", "C"),
        ("The answer is C", None),                 # any character has to follow
        ("The answer is A. The answer is B.", None),
        ("E", None),                               # of four options
        ("a dog", None),
        ("", None),
    ],
)
def test_scienceqa(answer, letter):
    assert RULES["scienceqa"](answer, FOUR) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C) a bird", "C"),
        ("Option D", "D"),
        ("The answer is A", "A"),
        ("the answer is (A)", None),
        ("E", None),
        ("blue", "B"),                             # the official code reads one character
        ("It is B", None),
        ("D: no animal", "D"),
        ("", None),
    ],
)
def test_first_letter(answer, letter):
    assert RULES["first_letter"](answer, FOUR) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("The best answer is C.", "C"),
        ("The answer is (D)", "D"),
        ("The correct answer is: B", "B"),
        ("I think B, not A", "B"),                 # "I" is no option
        ("Dogs", "D"),
        ("b", None),
        ("E", None),
        ("a dog", None),
        ("Best option: A", "B"),                   # not among the official openings
        ("", None),
    ],
)
def test_first_capital(answer, letter):
    assert RULES["first_capital"](answer, FOUR) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("The answer is B.", "B"),
        ("(A) or (C)", "C"),                       # the last one
        ("A or C", "C"),
        ("(A), not C ", "A"),                      # brackets decide before bare letters do
        ("A.1 and B.2", "A"),                      # found by "A.", looked up as " A ": a tie
        ("USA B or", "B"),
        ("It is most likely to be a dog", "B"),    # more than five words: the text of an option
        ("First a dog and then a red bird", "C"),
        ("It is a dog", None),                     # four words
        ("It is hard to tell from this", None),
        ("b", None),
        ("", None),
    ],
)
def test_mmmu(answer, letter):
    assert RULES["mmmu"](answer, FOUR) == letter


def test_unparsable_answers_are_wrong_and_counted():
    metric = LetterChoice("mmmu")
    metric.update(["B", "C", "?", "?"], ["B"] * 4, [FOUR, FOUR, FOUR, FOUR[:2]])
    found = metric.compute()
    assert found["accuracy"].item() == 1 / 4
    assert found["unparsable"].item() == 2 / 4
    assert found["accuracy_if_guessed"].item() == pytest.approx((1 + 1 / 4 + 1 / 2) / 4)


def test_unknown_rules_and_letters_without_option_are_refused():
    with pytest.raises(UserError, match="no letter rule 'gpt'"):
        LetterChoice("gpt")
    for reference in ("E", "b", "", "AB"):
        with pytest.raises(UserError, match="none of 4 options"):
            LetterChoice("mmmu").update(["A"], [reference], [FOUR])
