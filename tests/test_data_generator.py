"""The generated data: right answers, balance, disjoint splits, determinism, honest errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.drawing import RGB, draw_scene
from data.generate import generate
from data.labels import PATCH_CLASSES, patch_labels
from data.questions import QUESTION_TYPES, Question, QuestionSampler
from data.scenes import (
    COLOURS,
    GRID,
    LETTERS,
    OBJECTS,
    PATCH,
    PATCHES,
    SHAPES,
    SPLITS,
    Scene,
    sample_scenes,
    split_of,
)

STEPS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


def _objects(scene: Scene) -> list[dict[str, object]]:
    """The scene as a plain list of things, for answering by another route than questions.py."""
    things = []
    for cell in range(GRID * GRID):
        if scene.shape[cell] >= 0:
            letter = scene.letter[cell]
            things.append({"at": divmod(cell, GRID), "colour": COLOURS[scene.colour[cell]],
                           "shape": SHAPES[scene.shape[cell]], "size": int(scene.size[cell]),
                           "style": int(scene.striped[cell]),
                           "letter": LETTERS[letter] if letter >= 0 else None})
    return things


def _solve(scene: Scene, text: str) -> str:
    """Answer a question from its words and the list of things alone."""
    things, words = _objects(scene), text.split()
    named = [w for w in words if w in COLOURS]
    if words[:2] == ["how", "many"]:
        return str(sum(t["colour"] == named[0] for t in things))
    if words[:2] == ["is", "there"]:
        found = any(t["colour"] == words[3] and t["shape"] == words[4] for t in things)
        return "yes" if found else "no"
    if words[:2] == ["are", "there"]:
        return max(named, key=lambda colour: sum(t["colour"] == colour for t in things))
    if words[-2] == "dot":
        return COLOURS[scene.dot_colour]
    if "odd" in words:
        styles = Counter(t["style"] for t in things)
        [thing] = [t for t in things if styles[t["style"]] == 1]
    elif "largest" in words:
        thing = max(things, key=lambda t: t["size"])
    else:
        field = "letter" if words[-2] in LETTERS else "shape"
        [thing] = [t for t in things if t[field] == words[-2]]
        for direction, (down, right) in STEPS.items():
            if direction in words:
                place = (thing["at"][0] + down, thing["at"][1] + right)
                [thing] = [t for t in things if t["at"] == place]
    return str(thing[words[1]])


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    """2 400 questions on 300 test scenes."""
    sampler = QuestionSampler(3)
    return [(scene, question) for scene in islice(sample_scenes("test", 3), 300)
            for question in sampler.sample(scene, 8)]


def test_answers_agree_with_an_independent_solver(asked: list[tuple[Scene, Question]]) -> None:
    assert {question.type for _, question in asked} == set(QUESTION_TYPES)
    for scene, question in asked:
        assert _solve(scene, question.text) == question.answer, question


def test_answers_are_balanced_within_each_type(asked: list[tuple[Scene, Question]]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question in asked:
        answers[question.type][question.answer] += 1
    for name, counts in answers.items():
        even = sum(counts.values()) / len(counts)
        assert len(counts) > 1
        assert max(counts.values()) <= 1.3 * even + 2, (name, counts)


def test_half_of_the_questions_do_not_name_their_evidence(
        asked: list[tuple[Scene, Question]]) -> None:
    named = [QUESTION_TYPES[question.type].names_evidence for _, question in asked]
    assert np.mean(named) <= 0.5


def test_no_scene_is_in_two_splits() -> None:
    """Nor with other noise and shifts: the same scene redrawn is in the split of the first."""
    assert sorted(bucket for buckets in SPLITS.values() for bucket in buckets) == list(range(10))
    for split in SPLITS:
        for scene in islice(sample_scenes(split, 5), 50):
            redrawn = replace(scene, noise_seed=scene.noise_seed + 1, shift=-scene.shift)
            assert split_of(redrawn) == split


def test_objects_cover_the_image_and_exceed_the_harsh_budget() -> None:
    for scene in islice(sample_scenes("train", 1), 50):
        shown = patch_labels(scene)
        assert all(len(labels) == PATCHES ** 2 for labels in shown.values())
        assert all(shown[name].max() < PATCH_CLASSES[name] for name in shown)
        assert np.mean(shown["shape"] > 0) >= 0.3
        assert PATCHES ** 2 / 9 < OBJECTS.start and len(scene.occupied) in OBJECTS


def test_labels_agree_with_the_pixels() -> None:
    """A drawn object has its colour's nearest RGB where its mask is full: the cell's dot here."""
    for scene in islice(sample_scenes("train", 2), 30):
        row, column = (part * PATCH for part in divmod(scene.dot_patch, PATCHES))
        middle = draw_scene(scene)[row + 3:row + 5, column + 3:column + 5].mean((0, 1))
        assert np.abs(RGB - middle).sum(1).argmin() == scene.dot_colour


def test_generation_is_deterministic_and_complete(tmp_path: Path) -> None:
    paths = [generate(tmp_path / name, "val", 30, seed=4) for name in ("one", "two")]
    one, two = (json.loads(path.read_text()) for path in paths)
    assert one == two and len(one) == 30
    assert all(row["conversations"][0]["value"].startswith("<image>\n") for row in one)
    first, second = (Image.open(path.parent / one[0]["image"]) for path in paths)
    assert first.size == (96, 96) and first.tobytes() == second.tobytes()
    assert not list(tmp_path.glob("*.writing"))


@pytest.mark.parametrize("flag, value, hint", [
    ("--n", "0", "1 or more"), ("--split", "dev", "train, val, test"),
    ("--seed", "-1", "0 or more"), ("--types", "riddles", "allowed are"),
    ("--output", ".", "exists already")])
def test_bad_input_is_refused_in_words(tmp_path: Path, flag: str, value: str, hint: str) -> None:
    arguments = {"--output": str(tmp_path / "new"), "--n": "4", flag: value}
    run = subprocess.run([sys.executable, "-m", "data.generate",
                          *(part for pair in arguments.items() for part in pair)],
                         capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert value in run.stderr and hint in run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())
