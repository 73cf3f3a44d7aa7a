"""Whether an open answer holds the reference: MMMU's rule, quirks included."""

import re
from collections.abc import Iterator, Sequence

LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What an answer stands behind; in the last line also "="."""

MARKS = tuple(":,.!?;'")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def is_held(answer: str, references: Sequence[str]) -> bool:
    """Whether ``answer`` holds one of ``references``. (MMMU, ``eval_open`` of ``eval_utils.py``)

    Looked at is what stands behind the words of ``LEADS`` in each line, the shortest such end, or
    the whole answer if nothing does. A number has to be among those in there, both rounded to two
    places; a text has to occur in there, in any case. A single letter needs a space beside it.
    """
    accepted = [form for reference in references for form in _forms(reference)]
    texts = [form for form in accepted if isinstance(form, str)]
    for end in _ends(answer):
        found = [end, *(number for rule in NUMBERS for number in rule.findall(end))]
        for form in (form for one in found for form in _forms(one)):
            if form in accepted or isinstance(form, str) and any(text in form for text in texts):
                return True
    return False


def _ends(answer: str) -> Iterator[str]:
    """The ends of the lines of ``answer`` that may be what was asked for."""
    whole = answer.strip().strip(".").lower()
    lines = whole.split("\n")
    ends = []
    for number, line in enumerate(lines, 1):
        leads = (*LEADS, "=") if number == len(lines) else LEADS
        shortest = ""
        for tail in (line.split(lead)[-1].strip() for lead in leads if lead in line):
            if not shortest or len(tail) < len(shortest):  # an empty one, too: a quirk
                shortest = tail
        if shortest and shortest not in MARKS:
            ends.append(shortest)
    yield from ends or [whole]


def _forms(text: str) -> list[str | float]:
    """``text`` as a number of two places, or in lower case."""
    bare = text.strip()
    try:
        return [round(float(bare.replace(",", "")), 2)]
    except ValueError:
        low = bare.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
