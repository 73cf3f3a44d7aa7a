"""Two to four images beside each other: which has more, and what is in one and not in another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from data.drawing import draw_scene
from data.even import Even
from data.kinds.example import IMAGE, Example, Kind, same
from data.scenes import COLOURS, LETTERS, Scene, sample_scenes

NUMBERS = ("first", "second", "third", "fourth")
MARGIN = 2  # least lead of the image that has more


def examples(split: str, seed: int) -> Iterator[Example]:
    """"more" and "difference" in turn, of two, three and four images in turn."""
    scenes = sample_scenes(split, seed)
    even = Even(np.random.default_rng([seed, 12]))
    made = 0
    while True:
        images = list(islice(scenes, 2 + made // 2 % 3))
        type = ("more", "difference")[made % 2]
        chosen = even.choose(f"{type} of {len(images)}", _ASKED[type](images))
        if chosen is not None:
            made += 1
            answer, asked = chosen
            drawn = tuple(draw_scene(scene) for scene in images)
            yield Example(f"{type} of {len(images)}", drawn,
                          ((IMAGE * len(images) + asked, answer),))


def more(scenes: list[Scene]) -> dict[str, list[str]]:
    """Which image has most of a colour: questions by answer."""
    counts = np.array([np.bincount(scene.colour[scene.occupied], minlength=len(COLOURS))
                       for scene in scenes])
    answers: dict[str, list[str]] = {number: [] for number in NUMBERS[: len(scenes)]}
    for colour, here in enumerate(counts.T):
        most, next_most = np.sort(here)[::-1][:2]
        if most >= next_most + MARGIN:
            asked = f"which image has most {COLOURS[colour]} objects?"
            answers[NUMBERS[int(here.argmax())]].append(asked)
    return answers


def difference(scenes: list[Scene]) -> dict[str, list[str]]:
    """What is in one image and not in another, where that is one thing: questions by answer."""
    answers: dict[str, list[str]] = {}
    for one, other in ((one, other) for one in range(len(scenes)) for other in range(len(scenes))):
        for what, names in (("colour", COLOURS), ("letter", LETTERS)):
            values = [getattr(scenes[n], what)[scenes[n].occupied] for n in (one, other)]
            new = set(values[0].tolist()) - set(values[1].tolist()) - {-1}
            if len(new) == 1:
                asked = f"what {what} is in the {NUMBERS[one]} image and not in the " \
                        f"{NUMBERS[other]}?"
                answers.setdefault(names[new.pop()], []).append(asked)
    return answers


_ASKED = {"more": more, "difference": difference}

KIND = Kind("comparisons", examples, same)
