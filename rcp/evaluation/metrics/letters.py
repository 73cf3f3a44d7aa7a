"""Which option an answer names: the rules of four sets, none of which guesses."""

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

Rule = Callable[[str, Sequence[str]], str | None]

LONG = 5  # words; the spaces around an answer belong to none


def scienceqa(answer: str, options: Sequence[str]) -> str | None:
    """A bare letter, "B. ..." or one "The answer is B.". (LLaVA, ``eval_science_qa.py``)"""
    letters = ascii_uppercase[: len(options)]
    text = answer.strip()
    if text in tuple(letters):
        return text
    if text[1:3] == ". " and text[0] in letters:
        return text[0]
    said = re.findall(r"The answer is ([A-Z]).", text)
    return said[0] if len(said) == 1 and said[0] in letters else None


def first_letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter, of either case, that the answer starts with. (MMStar, ``exact_match``)

    "(", "option " or "the answer is " may come before it. An answer in words is taken for its
    first letter: "blue" for B.
    """
    letters = ascii_uppercase[: len(options)].lower()
    text = answer.strip().lower()
    for start in ("", "(", "option ", "the answer is "):
        letter = text[len(start) : len(start) + 1]
        if text.startswith(start) and letter and letter in letters:
            return letter.upper()
    return None


def first_capital(answer: str, options: Sequence[str]) -> str | None:
    """The first capital that is an option's, usual openings left out. (Video-MME)"""
    text = answer.strip()
    for opening in ("The best answer is", "The correct answer is", "The answer is", "The answer"):
        text = text.replace(opening, "")
    found = re.search(f"[{ascii_uppercase[: len(options)]}]", text)
    return found and found[0]


def mmmu(answer: str, options: Sequence[str]) -> str | None:
    """The letter named last, or the option quoted last. (MMMU, ``eval_utils.py``)

    Looked for in turn: "(B)", "B " and "B."; then, in answers of more than five words, the text of
    the options, in any case. The first kind that is found decides.
    """
    text = answer
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = ascii_uppercase[: len(options)]
    # what has to be found, and where it is looked for to tell which came last: " B " also for "B."
    for looks, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        named = [letter for letter in letters if looks.format(letter) in text]
        if named:
            return max(named, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > LONG:
        places = [text.lower().rfind(option.lower()) for option in options]
        if max(places) >= 0:
            return letters[places.index(max(places))]
    return None


RULES: dict[str, Rule] = {
    "scienceqa": scienceqa,
    "first_letter": first_letter,
    "first_capital": first_capital,
    "mmmu": mmmu,
}
