"""How VQA answers are brought to one spelling before they are compared.

The rules are those of ``vqaEval.py`` (GT-Vision-Lab/VQA) and of the ``EvalAIAnswerProcessor``
(facebookresearch/mmf), quirks included: scores are comparable with published ones only if the
quirks are.
"""

import re

NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ";/[]\"{}()=+\\_-><@`,?!"
BETWEEN_DIGITS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
PERIODS_REMOVED = 32  # the official call hands ``re.UNICODE`` (32) where a count is expected

# The official tables, which do not know every contraction, without the entries that never match:
# those with a capital, as words are in lower case by then.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _spellings() -> dict[str, str]:
    """Each way to forget exactly one apostrophe, with the full word."""
    full_word = {
        word[:place] + word[place + 1 :]: word
        for word in CONTRACTED.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }
    # the official table has this one pair the wrong way round
    return full_word | {"somebody'd": "somebodyd"}


CONTRACTIONS = _spellings()


def without_punctuation(text: str) -> str:
    """``text`` without punctuation marks, and without periods that no digit follows.

    A mark that touches a space in ``text`` vanishes, any other becomes a space; where a comma
    stands between two digits, all of them vanish.
    """
    joined = BETWEEN_DIGITS.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        vanishes = joined or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if vanishes else " ")
    return PERIOD.sub("", result, count=PERIODS_REMOVED)


def with_plain_words(text: str) -> str:
    """``text`` in lower case, numbers as digits, articles gone, apostrophes put back."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_v2(text: str) -> str:
    """A prediction as the official VQAv2 evaluation reads it."""
    on_one_line = text.replace("\n", " ").replace("\t", " ").strip()
    return with_plain_words(without_punctuation(on_one_line))


def evalai(text: str) -> str:
    """An answer, predicted or true, as the EvalAI processor reads it.

    Commas and question marks go first, so that no comma between digits makes other marks vanish,
    and "'s" becomes a word of its own.
    """
    bare = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_v2(bare)
