"""MMMU's rule for open answers, by hand."""

import pytest

from rcp.evaluation.metrics.open_answers import is_held

CASES = [
    ("24", ["24"], True),
    ("24.", ["24.0"], True),
    ("The answer is 24 cm", ["24"], True),  # a number in what stands behind "is"
    ("The answer is 240", ["24"], False),
    ("x = 3.141", ["3.14"], True),  # both to two places
    ("x = 3.146", ["3.14"], False),
    ("1,250", ["1250"], True),
    ("it costs 1.25e3", ["1250"], True),
    ("-7", ["7"], False),
    ("6 is 7 so 8", ["7"], False),  # the shortest end counts, here the last
    ("There are 5 of 7", ["5"], True),  # nothing leads: all of it
    ("y = 5\nas x was 3", ["5"], True),  # "=" leads in the last line alone
    ("y = 4, that is\nz = 5", ["4"], False),
    ("The result is Paris.", ["paris"], True),
    ("in Paris, France", ["Paris"], True),
    ("Pari", ["Paris"], False),
    ("b", ["b"], True),
    ("abc", ["b"], False),  # a single letter needs a space beside it
    ("yes", ["no", "yes"], True),
    ("The answer is", ["is"], True),  # nothing stands behind it
    ("so 5 is \nor 6", ["6"], True),  # an empty end outdoes another, and so all is looked at
    ("", ["24"], False),
    ("", [""], True),
    ("...", ["."], False),
]


@pytest.mark.parametrize("answer, references, expected", CASES)
def test_an_open_answer(answer, references, expected):
    assert is_held(answer, references) is expected
