"""Kinds of generated questions: each answer is found again by another route, from the scenes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from data.drawing import box_of, draw_scene, draw_sign
from data.generate import generate
from data.kinds import KINDS, captions, clips, comparisons, demonstrations, mosaics, places
from data.kinds.example import guessed, same
from data.kinds.pointing import apart, named
from data.scenes import COLOURS, GRID, LETTERS, MEDIUM, SHAPES, Scene, sample_scenes, split_of
from rcp.conversations.source import open_conversations

NUMBERS = ["first", "second", "third", "fourth"]


def drawn(name: str, count: int, split: str = "val", seed: int = 0):
    return list(islice(KINDS[name].examples(split, seed), count))


@pytest.fixture
def undrawn(monkeypatch):
    """Examples whose images are the scenes themselves."""
    for kind in (captions, clips, comparisons, demonstrations, mosaics):
        monkeypatch.setattr(kind, "draw_scene", lambda scene: scene)
    monkeypatch.setattr(mosaics, "mosaic", lambda scenes, side: scenes)
    return drawn


def cell_of(scene: Scene, name: str) -> int:
    """By looking at every object: the cell that ``name`` means, which must be one."""
    if name == "the odd one out":
        styles = Counter(scene.striped[scene.occupied].tolist())
        rare = min(styles, key=lambda style: styles[style])
        found = [c for c in scene.occupied if scene.striped[c] == rare]
    elif name == "the largest object":
        found = [c for c in scene.occupied if scene.size[c] == max(scene.size[scene.occupied])]
    elif name.startswith("the letter "):
        letter = LETTERS.index(name.removeprefix("the letter "))
        found = [c for c in scene.occupied if scene.letter[c] == letter]
    else:
        shape = SHAPES.index(name.removeprefix("the "))
        found = [c for c in scene.occupied if scene.shape[c] == shape]
    assert len(found) == 1, (name, found)
    return int(found[0])


@pytest.mark.parametrize("name", KINDS)
def test_examples_come_again_with_their_seed_and_no_split_shows_what_another_does(name):
    first, again = drawn(name, 3), drawn(name, 3)
    assert [e.turns for e in first] == [e.turns for e in again]
    pairs = [pair for x, y in zip(first, again) for pair in zip(x.images, y.images)]
    assert all(np.array_equal(one, other) for one, other in pairs)
    others = drawn(name, 3, "test") + drawn(name, 3, seed=1)
    shown = {image.tobytes() for example in others for image in example.images}
    assert not shown & {image.tobytes() for example in first for image in example.images}


@pytest.mark.parametrize("name", KINDS)
def test_each_image_has_its_place_and_a_guesser_gets_little(name):
    found = drawn(name, 20 if name == "mosaics" else 60)
    for example in found:
        assert example.turns[0][0].count("<image>") == len(example.images) > 0
        assert all(image.dtype == np.uint8 for image in example.images)
        assert not any("<image>" in text for turn in example.turns[1:] for text in turn)
        assert all(KINDS[name].score(answer, answer) == 1.0 for _, answer in example.turns[-1:])
    assert max(guessed(KINDS[name], found).values()) <= 0.8


def test_a_guesser_says_what_is_most_often_right():
    kind = KINDS["strings"]
    examples = [e for e in drawn("strings", 3)]
    twice = [examples[0], examples[0], examples[1]]
    assert guessed(kind, [replace(e, type="t") for e in twice]) == {"t": pytest.approx(2 / 3)}
    assert (same(" Red", "red "), same("red", "blue")) == (1.0, 0.0)


def test_a_box_is_where_the_pixels_of_the_object_are():
    """A medium square has 13 of 16 pixels and a margin of 8 % on each side: from 2.54 to 13.46.

    Its outline is drawn as well, an eighth of a pixel: half of pixels 2 and 13 is its own.
    """
    scene = next(sample_scenes("val", 0))
    facts = {n: getattr(scene, n).copy() for n in ("shape", "size", "shift")}
    cell = GRID + 2
    facts["shape"][cell], facts["size"][cell] = SHAPES.index("square"), MEDIUM
    facts["shift"][cell] = (1, -1)
    left, top = 32 + 2 - 1, 16 + 2 + 1
    assert box_of(replace(scene, **facts), cell) == (left, top, left + 12, top + 12)


def test_places_are_those_of_what_is_named():
    scenes = sample_scenes("val", 0)
    for example in drawn("places", 20):
        scene = next(s for s in scenes if np.array_equal(draw_scene(s), example.images[0]))
        (question, answer), = example.turns
        cell = cell_of(scene, question.removeprefix("<image>\nwhere is ").removesuffix("?"))
        left, top, right, bottom = (96 * float(edge) for edge in answer.strip("[]").split(", "))
        row, column = divmod(cell, GRID)
        assert 16 * column - 0.5 <= left < right <= 16 * column + 16.5
        assert 16 * row - 0.5 <= top < bottom <= 16 * row + 16.5
        assert min(right - left, bottom - top) >= 6


def test_a_place_is_right_from_an_overlap_of_one_half_on():
    truth = "[0.00, 0.00, 0.20, 0.20]"
    assert places.score("[0.00, 0.00, 0.20, 0.11]", truth) == 1.0
    assert places.score("[0.00, 0.00, 0.20, 0.09]", truth) == 0.0
    assert places.score("left", truth) == 0.0


def test_a_sign_shows_its_letters_on_a_white_plate():
    grey = np.full((96, 96, 3), 100, np.uint8)
    image = draw_sign(grey, GRID + 1, ["L", "T"])
    # two letters: 14 wide, 11 high, in the middle of 32 by 16 pixels from (16, 16)
    plate = image[18:29, 25:39, 0]
    assert (image[17] == 100).all() and (image[29] == 100).all() and (grey == 100).all()
    assert (plate[0] == 0).all() and (plate[:, -1] == 0).all()
    letter_l = np.full((7, 5), 246)
    letter_l[:, 0] = letter_l[-1] = 0
    letter_t = np.full((7, 5), 246)
    letter_t[0] = letter_t[:, 2] = 0
    assert np.array_equal(plate[2:9, 2:7], letter_l) and np.array_equal(plate[2:9, 8:13], letter_t)


def test_signs_have_the_length_of_their_type_and_leave_the_dot_alone():
    for example in drawn("strings", 20):
        letters = example.turns[0][1].split()
        assert example.type == f"sign of {len(letters)}" and set(letters) <= set(LETTERS)
        assert example.images[0].shape == (96, 96, 3)


def test_captions_name_every_object_and_count_every_colour(undrawn):
    for example in undrawn("captions", 40):
        scene, answer = example.images[0], example.turns[0][1]
        things = [(COLOURS[scene.colour[c]], SHAPES[scene.shape[c]]) for c in scene.occupied]
        if example.type == "description":
            said = [tuple(part.split()[1:]) for part in answer.split(", ")]
            assert said == things and 20 <= 4 * len(said) <= 60
        else:
            counts = {colour: int(n) for n, colour in map(str.split, answer.split(", "))}
            assert counts == Counter(colour for colour, _ in things)


def test_captions_are_scored_by_what_they_name():
    truth = "a red circle, a blue star"
    assert captions.score("a red circle, a red circle", truth) == pytest.approx(0.5)
    assert captions.score("a blue star, a red circle.", truth) == 1.0
    assert captions.score("a red circle", truth) == pytest.approx(2 / 3)
    assert captions.score("", truth) == 0.0


def test_comparisons_are_true_of_their_images(undrawn):
    found = undrawn("comparisons", 60)
    for example in found:
        question, answer = example.turns[0]
        words = question.replace("<image>\n", "").rstrip("?").split()
        scenes = list(example.images)
        if example.type.startswith("more"):
            colour = COLOURS.index(words[4])
            counts = [sum(s.colour[c] == colour for c in s.occupied) for s in scenes]
            assert NUMBERS.index(answer) == int(np.argmax(counts))
            assert sorted(counts)[-1] - sorted(counts)[-2] >= 2
        else:
            one, other = (scenes[NUMBERS.index(w)] for w in words if w in NUMBERS)
            names = COLOURS if words[1] == "colour" else LETTERS
            seen = [{names[v] for c in s.occupied if (v := getattr(s, words[1])[c]) >= 0}
                    for s in (one, other)]
            assert seen[0] - seen[1] == {answer}
    assert {len(e.images) for e in found} == {2, 3, 4}


def test_only_the_rule_explains_what_was_shown(undrawn):
    rules = demonstrations.RULES
    for example in undrawn("demonstrations", 45):
        *shown, query = example.images
        told = [line.removeprefix("the answer is ").rstrip(".")
                for line in example.turns[0][0].split("\n") if line.startswith("the answer")]
        fitting = [rule for rule in rules if [rules[rule](scene) for scene in shown] == told]
        assert len(told) == len(shown) in (2, 3, 4)
        assert fitting == [example.type.split(", ")[0]]
        answers = [rule(query) for rule in rules.values()]
        assert answers.count(example.turns[0][1]) == 1 and rules[fitting[0]](query) in answers


def where(scene: Scene) -> dict[tuple[int, int], int]:
    """Objects of a shape that occurs once, by shape and colour, with their cells."""
    once = Counter(scene.shape[scene.occupied].tolist())
    return {(int(scene.shape[c]), int(scene.colour[c])): int(c) for c in scene.occupied
            if once[int(scene.shape[c])] == 1}


def test_clips_show_what_their_answers_say(undrawn):
    found = undrawn("clips", 80)
    for example in found:
        question, answer = example.turns[0]
        first, last = example.images[0], example.images[-1]
        if example.type == "how often":
            lit = [frame.dot_colour >= 0 for frame in example.images]
            assert sum(lit) == int(answer) and not any(a and b for a, b in zip(lit, lit[1:]))
            continue
        assert all(f is first or f is last for f in example.images) and first is not last
        before, after = where(first), where(last)
        if example.type == "what appeared":
            assert [SHAPES[shape] for shape, _ in set(after) - set(before)] == [answer]
            assert len(last.occupied) == len(first.occupied) + 1
            continue
        (what, came_from), = [item for item in before.items() if after[item[0]] != item[1]]
        row, column = np.array(divmod(after[what], GRID)) - np.array(divmod(came_from, GRID))
        way = {(0, -1): "left", (0, 1): "right", (-1, 0): "up", (1, 0): "down"}[row, column]
        assert answer == (SHAPES[what[0]] if example.type == "what moved" else way)
        if example.type == "where to":
            assert question.endswith(f"where does the {SHAPES[what[0]]} move?")
    assert {len(e.images) for e in found} == {4, 5, 6, 7, 8}


def test_one_scene_of_a_mosaic_alone_has_what_is_asked_about(undrawn):
    for example in undrawn("mosaics", 45):
        scenes, (question, answer) = example.images[0], example.turns[0]
        name = question.removeprefix("<image>\nwhat colour is ").rstrip("?")
        if name == "the dot":
            assert [COLOURS[s.dot_colour] for s in scenes if s.dot_colour >= 0] == [answer]
            continue
        what, names = ("letter", LETTERS) if "letter" in name else ("shape", SHAPES)
        value = names.index(name.split()[-1])
        cells = [(s, c) for s in scenes for c in s.occupied if getattr(s, what)[c] == value]
        (scene, cell), = cells
        assert COLOURS[scene.colour[cell]] == answer
        assert len(scenes) == int(example.type[-1]) ** 2


def test_a_mosaic_is_its_scenes_row_by_row():
    scenes = list(islice(sample_scenes("val", 3), 4))
    image = mosaics.mosaic(scenes, 2)
    assert image.shape == (192, 192, 3)
    assert np.array_equal(image[:96, 96:], draw_scene(scenes[1]))
    assert np.array_equal(image[96:, :96], draw_scene(scenes[2]))


def test_turns_of_a_dialogue_ask_about_objects_apart():
    scenes = sample_scenes("val", 0)
    for example in drawn("dialogues", 20):
        scene = next(s for s in scenes if np.array_equal(draw_scene(s), example.images[0]))
        cells = []
        for question, answer in example.turns:
            what, name = question.rstrip("?").split("what ")[1].split(" is ", 1)
            cell = cell_of(scene, name.removeprefix("on "))
            names = {"colour": COLOURS, "shape": SHAPES, "letter": LETTERS}[what]
            assert names[getattr(scene, what)[cell]] == answer
            cells.append(cell)
        pairs = [(a, b) for n, a in enumerate(cells) for b in cells[n + 1:]]
        assert all(apart(a, b) for a, b in pairs) and len(cells) in (2, 3)


def test_cells_that_touch_are_not_apart():
    assert apart(0, 2) and apart(0, 2 * GRID) and apart(GRID - 1, GRID)
    assert not apart(0, 0) and not apart(0, 1) and not apart(0, GRID + 1)


def test_names_mean_one_object_each():
    for scene in islice(sample_scenes("test", 2), 30):
        for name, cell in named(scene).items():
            assert cell_of(scene, name) == cell
        assert split_of(scene) == "test"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_read_by_the_loader(name, tmp_path):
    path = generate(tmp_path / "out", "val", 3, kind=name)
    rows = json.loads(path.read_text())
    data = open_conversations(str(path), None)
    for row, item in zip(rows, (data[n] for n in range(3)), strict=True):
        images = row["image"] if isinstance(row["image"], list) else [row["image"]]
        assert len(item.images) == len(images)
        assert item.sample.answer == row["conversations"][1]["value"]


@pytest.mark.parametrize(
    "arguments, message",
    [(["--kind", "clip"], "it must be one of scenes, strings"),
     (["--kind", "clips", "--types", "region"], "is of the kind scenes"),
     (["--kind", "clips", "--per-image", "2"], "is of the kind scenes")],
)
def test_a_kind_that_cannot_be_is_refused(arguments, message, tmp_path):
    command = [sys.executable, "-m", "data.generate", "--output", str(tmp_path / "out"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and message in ran.stderr and not (tmp_path / "out").exists()


def test_of_answers_as_frequent_the_first_ones_are_guessed():
    """Sixty answers occur once each: the fifty that come first are tried, and no later one."""
    kind = replace(KINDS["strings"], score=lambda said, answer: float(int(said) >= 50))
    (example,) = drawn("strings", 1)
    examples = [replace(example, type="t", turns=(("", str(n)),)) for n in range(60)]
    assert guessed(kind, examples) == {"t": 0.0}
    assert guessed(kind, examples[::-1]) == {"t": 1.0}
