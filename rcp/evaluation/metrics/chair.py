"""CHAIR: how many of the objects in a description are not in the image."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.quoting import plain
from rcp.refusals import refuse_unequal

WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
IRREGULAR = {
    "children": "child", "feet": "foot", "geese": "goose", "men": "man", "mice": "mouse",
    "people": "person", "policemen": "policeman", "teeth": "tooth", "women": "woman",
}
ENDINGS = (("ves", "fe"), ("ves", "f"), ("ies", "y"), ("es", ""), ("s", ""))

# Words that are read together although the file of synonyms need not hold them. Without these
# pairs, "baby elephant" would be a person and "home plate" tableware.
YOUNG_OR_GROWN = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
PAIRS = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in YOUNG_OR_GROWN},
    "passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet",
    "home plate": "home plate",
}


class Chair(AnswerMetric):
    """Hallucinated objects in captions, by sentence and by mention, and the objects found.

    ``chair_i`` = mentions of objects not in the image / mentions of objects; ``chair_s`` = captions
    with one such mention / captions; ``recall`` = objects of images that their captions mention /
    objects of images. Each synonym stands for its object. Lower is better for the first two, and
    both fall when a caption is short: read them beside the recall. (Rohrbach et al. 2018;
    ``chair.py`` of LisaAnne/Hallucination)

    ``synonyms`` is the file of that repository or one like it: a line an object, its name first,
    then its synonyms, with commas between. The rules for pairs of words are the official ones, but
    every two-word entry of the file is a pair as well. A plural is a word that is in the file
    without its ending, where the official code asks a linguistic library.

    All from 0 to 1. Without captions ``chair_s`` is NaN; without mentions ``chair_i`` is 0, and
    without objects in any image ``recall`` is NaN. An empty caption mentions nothing.
    """

    name = "chair"
    source = "Rohrbach et al. 2018, chair.py of LisaAnne/Hallucination"
    sums: Tensor

    def __init__(self, synonyms: Path | str) -> None:
        """Raises ``UserError`` where the file ``synonyms`` cannot be read or holds no words."""
        super().__init__()
        self.synonyms = read_synonyms(Path(synonyms))
        # captions, those that hallucinate, mentions, hallucinated ones, objects, those found
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Count one batch; ``references`` holds, per image, object names and human captions.

        What is in the image is what either mentions, read like the predictions. Raises
        ``UserError`` for columns of unequal length.
        """
        refuse_unequal(predictions=predictions, references=references)
        for prediction, texts in zip(predictions, references):
            mentions = self.mentions(prediction)
            present = {thing for text in texts for thing in self.mentions(text)}
            absent = sum(thing not in present for thing in mentions)
            found = len(present.intersection(mentions))
            row = [1, absent > 0, len(mentions), absent, len(present), found]
            self.sums += self.sums.new_tensor(row)

    def compute(self) -> dict[str, Tensor]:
        """``chair_s``, ``chair_i`` and ``recall``."""
        captions, hallucinating, mentions, absent, objects, found = self.sums
        return {
            "chair_s": hallucinating / captions,
            "chair_i": absent / mentions.clamp(min=1),
            "recall": found / objects,
        }

    def mentions(self, text: str) -> list[str]:
        """The objects that ``text`` mentions, one entry a mention."""
        words = [self._singular(word) for word in WORD.findall(text.lower())]
        read: list[str] = []
        at = 0
        while at < len(words):
            pair = self._singular(" ".join(words[at : at + 2]))
            known = pair in PAIRS or pair in self.synonyms and " " in pair
            read.append(PAIRS.get(pair, pair) if known else words[at])
            at += 2 if known else 1
        if "toilet" in read:  # "the seat of the toilet" is no chair
            read = [word for word in read if word != "seat"]
        return [self.synonyms[word] for word in read if word in self.synonyms]

    def _singular(self, word: str) -> str:
        """``word``, or the entry that it is the plural of."""
        if word in self.synonyms or word in PAIRS:
            return word
        if word in IRREGULAR:
            return IRREGULAR[word]
        for plural, singular in ENDINGS:
            stem = word.removesuffix(plural) + singular
            if word.endswith(plural) and (stem in self.synonyms or stem in PAIRS):
                return stem
        return word


def read_synonyms(path: Path) -> dict[str, str]:
    """Each word of the file with the object it stands for; raises ``UserError`` as ``Chair``."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The synonyms of CHAIR cannot be read from '{path}' ({plain(error)}). Give the file "
            f"data/synonyms.txt of LisaAnne/Hallucination, or one like it."
        ) from error
    rows = [[word.strip().lower() for word in line.split(",")] for line in lines]
    synonyms = {word: row[0] for row in rows for word in row if word}
    if not synonyms:
        raise UserError(f"'{path}' holds no synonyms: give a line an object, words with commas.")
    return synonyms
