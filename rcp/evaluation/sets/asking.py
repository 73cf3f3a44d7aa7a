"""Questions in the words that most sets share, those of LLaVA's evaluation."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Refused, Row
from rcp.conversations.rows import own_id
from rcp.evaluation.sets.base import Facts

LLAVA = "LLaVA, docs/Evaluation.md"
SHORTLY = "\nAnswer the question using a single word or phrase."
BY_LETTER = "\nAnswer with the option's letter from the given choices directly."


def asked(
    row: Row,
    question: str,
    answer: str | Sequence[str],
    facts: Facts,
    *,
    images: Sequence[Any],
    kind: str = "",
    name: str | None = None,
) -> Asked:
    """``question`` about ``images``, called as the ``row`` calls itself, or ``name``.

    Of several accepted answers the most frequent one is shown; ``kind`` is the question type.
    """
    ours = {
        "id": own_id(row) if name is None else name,
        "question": question,
        "answers": [answer] if isinstance(answer, str) else list(answer),
        "images": list(images),
        "question_type": kind,
    }
    return Asked(ours, facts)


def lettered(options: Sequence[str]) -> str:
    """The options, a line each behind its letter: "A. red"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options))


def letter_of(number: int, options: Sequence[str]) -> str:
    """The letter of option ``number``, from 0; refused where there is none."""
    if not 0 <= number < min(len(options), len(ascii_uppercase)):
        raise Refused(
            f"has option {number}, counted from 0, for its answer, but {len(options)} options. Get "
            "the row anew, or remove it."
        )
    return ascii_uppercase[number]
