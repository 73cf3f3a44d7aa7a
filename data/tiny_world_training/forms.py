"""What the second model is trained on: groups of questions that share their images, by form.

A form is a kind of questions and, where that has one, a number of images: all groups of a form
take about as many rows, so that batches are of one form each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest

import numpy as np

from data.drawing import box_of, draw_scene
from data.generate import SCENES, conversation
from data.kinds import KINDS, captions, clips, comparisons, demonstrations
from data.kinds.example import IMAGE, Example
from data.kinds.places import written
from data.kinds.pointing import named
from data.questions import QuestionSampler
from data.scenes import sample_scenes

SPLIT = "train"
SEEDS = 2**32  # more than a file of data.generate is told: no batch is the start of one

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Group:
    """``images`` (H, W, 3) uint8, and conversations about them, each asked as if alone."""

    images: tuple[np.ndarray, ...]
    asked: tuple[Turns, ...]


@dataclass(frozen=True)
class Form:
    """Groups of a ``kind`` without end, from a seed; how many make a batch; the share of it."""

    kind: str
    groups: Callable[[int], Iterator[Group]]
    batch: int
    weight: float


def _scenes(seed: int, questions: int = 12) -> Iterator[Group]:
    sampler = QuestionSampler(seed)
    for scene in sample_scenes(SPLIT, seed):
        asked = sampler.sample(scene, questions)
        yield Group((draw_scene(scene),), tuple((conversation(question),) for question in asked))


def _places(seed: int) -> Iterator[Group]:
    """All objects of a scene that have a name."""
    for scene in sample_scenes(SPLIT, seed):
        turns = ((f"{IMAGE}where is {name}?", written(box_of(scene, cell)))
                 for name, cell in named(scene).items())
        yield Group((draw_scene(scene),), tuple((turn,) for turn in turns))


def _captions(seed: int) -> Iterator[Group]:
    """Both questions on each scene."""
    for scene in sample_scenes(SPLIT, seed, captions.OBJECTS):
        yield Group((draw_scene(scene),), ((captions.description(scene),),
                                           (captions.counted(scene),)))


def _comparisons(seed: int, images: int, questions: int = 10) -> Iterator[Group]:
    """Questions of both types on the same images, with answers as different as they allow."""
    rng, scenes = np.random.default_rng([seed, 3]), sample_scenes(SPLIT, seed)
    while True:
        shown = list(islice(scenes, images))
        asked = [pair for possible in (comparisons.more(shown), comparisons.difference(shown))
                 for pair in _by_turns(possible, questions // 2, rng)]
        drawn = tuple(draw_scene(scene) for scene in shown)
        yield Group(drawn, tuple(((IMAGE * images + text, answer),) for text, answer in asked))


def _by_turns(answers: dict[str, list[str]], most: int, rng: np.random.Generator
              ) -> list[tuple[str, str]]:
    """Up to ``most`` questions with their answers: one of each answer, then a second of each."""
    pairs = [[(text, answer) for text in rng.permutation(texts).tolist()]
             for answer, texts in answers.items() if texts]
    rng.shuffle(pairs)
    mixed = (pair for turn in zip_longest(*pairs) for pair in turn if pair is not None)
    return list(islice(mixed, most))


def _alone(examples: Callable[[str, int], Iterator[Example]], seed: int) -> Iterator[Group]:
    """Each example of a kind by itself."""
    return (Group(example.images, (example.turns,)) for example in examples(SPLIT, seed))


def _just(examples: Callable[..., Iterator[Example]], **changes: range
          ) -> Callable[[int], Iterator[Group]]:
    return partial(_alone, partial(examples, **changes))


FORMS: dict[str, Form] = {
    "scenes": Form(SCENES, _scenes, 3, 2.0),
    "strings": Form("strings", _just(KINDS["strings"].examples), 5, 1.0),
    "places": Form("places", _places, 2, 1.0),
    "captions": Form("captions", _captions, 3, 1.0),
    "comparisons of 2": Form("comparisons", partial(_comparisons, images=2), 2, 0.4),
    "comparisons of 3": Form("comparisons", partial(_comparisons, images=3), 1, 0.1),
    "demonstrations of 2": Form(
        "demonstrations", _just(demonstrations.examples, numbers=range(2, 3)), 2, 0.2),
    "clips of 4": Form("clips", _just(clips.examples, lengths=range(4, 5)), 2, 0.2),
    "mosaics": Form("mosaics", _just(KINDS["mosaics"].examples), 5, 0.4),
    "dialogues": Form("dialogues", _just(KINDS["dialogues"].examples), 4, 0.4),
}


def drawn(form: Form, seed: int, number: int) -> list[Group]:
    """The batch ``number`` of a form: the same whenever it is drawn, and none like another."""
    return list(islice(form.groups((seed + 1) * SEEDS + number), form.batch))
