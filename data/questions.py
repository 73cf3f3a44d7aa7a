"""Questions about a scene, with balanced answers.

Every type lists all questions a scene allows, by answer; the sampler then takes an answer that it
has used least so far, so that guessing by type alone earns no more than its share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import Callable

import numpy as np

from data.even import Even
from data.scenes import COLOURS, DIRECTIONS, LETTERS, SHAPES, Scene, neighbour

COUNTS = range(5)
MARGIN = 2  # least difference of two compared counts


@dataclass(frozen=True)
class Question:
    """A question with its one-word answer."""

    type: str
    text: str
    answer: str


Answers = dict[str, list[str]]  # question texts by answer


def _place(direction: str, name: str) -> str:
    return f"{direction} of the {name}" if direction in ("left", "right") else \
        f"{direction} the {name}"


def _only(values: np.ndarray) -> dict[int, int]:
    """Values that occur in exactly one cell, with that cell."""
    counts = Counter(values[values >= 0].tolist())
    return {value: int(np.flatnonzero(values == value)[0])
            for value, count in counts.items() if count == 1}


def _add_looks(answers: Answers, scene: Scene, cell: int, name: str, shape: bool = True) -> None:
    answers[COLOURS[scene.colour[cell]]].append(f"what colour is {name} ?")
    if shape:
        answers[SHAPES[scene.shape[cell]]].append(f"what shape is {name} ?")


def _attribute(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    for shape, cell in _only(scene.shape).items():
        _add_looks(answers, scene, cell, f"the {SHAPES[shape]}", shape=False)
    for letter, cell in _only(scene.letter).items():
        _add_looks(answers, scene, cell, f"the letter {LETTERS[letter]}")
    return answers


def _existence(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    seen = set(zip(scene.colour.tolist(), scene.shape.tolist()))
    for colour in set(scene.colour.tolist()) - {-1}:
        for shape in set(scene.shape.tolist()) - {-1}:
            # A hard negative: the colour is there and the shape is there, but not together.
            answer = "yes" if (colour, shape) in seen else "no"
            answers[answer].append(f"is there a {COLOURS[colour]} {SHAPES[shape]} ?")
    return answers


def _region(scene: Scene) -> Answers:
    return {COLOURS[scene.dot_colour]: ["what colour is the dot ?"]}


def _reading(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    for shape, cell in _only(scene.shape).items():
        if scene.letter[cell] >= 0:
            text = f"what letter is on the {SHAPES[shape]} ?"
            answers[LETTERS[scene.letter[cell]]].append(text)
    return answers


def _beside(scene: Scene) -> list[tuple[int, str]]:
    """Every (cell, place) where place describes it by a neighbour whose shape is unique."""
    found = []
    for shape, anchor in _only(scene.shape).items():
        for direction in DIRECTIONS:
            cell = neighbour(anchor, direction)
            if cell is not None and scene.shape[cell] >= 0:
                found.append((cell, _place(direction, SHAPES[shape])))
    return found


def _relation(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    for cell, place in _beside(scene):
        _add_looks(answers, scene, cell, f"the object {place}")
    return answers


def _reading_beside(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    for cell, place in _beside(scene):
        if scene.letter[cell] >= 0:
            text = f"what letter is on the object {place} ?"
            answers[LETTERS[scene.letter[cell]]].append(text)
    return answers


def _counting(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    for colour, count in enumerate(_colour_counts(scene)):
        if count in COUNTS:
            answers[str(count)].append(f"how many objects are {COLOURS[colour]} ?")
    return answers


def _comparison(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    counts = _colour_counts(scene)
    for first, second in combinations(range(len(COLOURS)), 2):
        if abs(counts[first] - counts[second]) >= MARGIN:
            more = COLOURS[first if counts[first] > counts[second] else second]
            for one, other in ((first, second), (second, first)):
                answers[more].append(_more(one, other))
    return answers


def _more(one: int, other: int) -> str:
    return f"are there more {COLOURS[one]} or {COLOURS[other]} objects ?"


def _colour_counts(scene: Scene) -> list[int]:
    return np.bincount(scene.colour[scene.occupied], minlength=len(COLOURS)).tolist()


def _odd_one_out(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    _add_looks(answers, scene, scene.odd_cell, "the odd one out")
    return answers


def _largest(scene: Scene) -> Answers:
    answers: Answers = defaultdict(list)
    _add_looks(answers, scene, scene.largest_cell, "the largest object")
    return answers


@dataclass(frozen=True)
class QuestionType:
    """How a type is asked, how often, and whether a question names the evidence it needs."""

    candidates: Callable[[Scene], Answers]
    weight: float
    names_evidence: bool


QUESTION_TYPES = {
    "attribute": QuestionType(_attribute, 1.0, True),
    "existence": QuestionType(_existence, 1.0, True),
    "region": QuestionType(_region, 0.5, True),
    "reading": QuestionType(_reading, 0.5, True),
    "reading_relation": QuestionType(_reading_beside, 1.0, False),
    "relation": QuestionType(_relation, 1.5, False),
    "counting": QuestionType(_counting, 1.0, False),
    "comparison": QuestionType(_comparison, 1.0, False),
    "odd_one_out": QuestionType(_odd_one_out, 0.75, False),
    "largest": QuestionType(_largest, 0.75, False),
}


class QuestionSampler:
    """Draws questions, keeping the answers of each type as even as the scenes allow."""

    def __init__(self, seed: int, weights: dict[str, float] | None = None) -> None:
        self.weights = weights or {name: kind.weight for name, kind in QUESTION_TYPES.items()}
        self._rng = np.random.default_rng([seed, 1])
        self._even = Even(self._rng)

    def sample(self, scene: Scene, count: int) -> list[Question]:
        """`count` different questions on one scene; fewer if the scene allows no more."""
        candidates = {name: QUESTION_TYPES[name].candidates(scene) for name in self.weights}
        chosen: list[Question] = []
        while len(chosen) < count and candidates:
            names = list(candidates)
            shares = np.array([self.weights[name] for name in names])
            name = names[self._rng.choice(len(names), p=shares / shares.sum())]
            question = self._take(name, candidates[name])
            if question is None:
                del candidates[name]
            else:
                chosen.append(question)
        return chosen

    def _take(self, name: str, answers: Answers) -> Question | None:
        """A question with the least used answer that is left; the question is used up."""
        chosen = self._even.choose(name, answers)
        return None if chosen is None else Question(name, chosen[1], chosen[0])
