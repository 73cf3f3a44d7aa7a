"""Scenes and questions without end, for `data.train: generated`; train.py imports this."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from data.drawing import draw_scene
from data.generate import asked, conversation
from data.questions import Question
from data.scenes import Scene
from rcp.conversations import LoadedSample, Sample
from rcp.conversations.endless import MadeQuestions
from rcp.errors import UserError

BLOCK = 256  # questions among which answers are kept even
PER_IMAGE = 4
SEEDS = 2**32  # more than a file of data.generate is told: no block is the start of one


class EndlessScenes(MadeQuestions):
    """Questions on scenes of the split "train", which a hash keeps apart from those of the others.

    Block by block, each made from its number and the seed, and mixed.
    """

    name = "generated"

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < SEEDS:
            raise UserError(f"data.seed is {seed}: give a whole number from 0 to {SEEDS - 1}.")
        super().__init__(seed)

    def __getitem__(self, number: int) -> LoadedSample:
        block, place = divmod(number, BLOCK)
        scene, question = _block(self.seed, block)[place]
        human, answer = conversation(question)
        name = f"{self.name}-{self.seed}-{number:09d}"
        sample = Sample(name, (Path(f"{name}.png"),), human, answer, question.type)
        return LoadedSample(sample, (Image.fromarray(draw_scene(scene)),))


@lru_cache(maxsize=2)
def _block(seed: int, number: int) -> list[tuple[Scene, Question]]:
    own = (seed + 1) * SEEDS + number
    found = [(scene, question) for _, scene, question in islice(asked("train", own), BLOCK)]
    order = np.random.default_rng([own, 2]).permutation(BLOCK)
    return [found[place] for place in order]
