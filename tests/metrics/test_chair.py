"""CHAIR. Cases follow chair.py of LisaAnne/Hallucination."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.chair import Chair


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A man with two dogs.", ["person", "dog"]),
        ("The puppy sees another dog", ["dog", "dog"]),     # a mention each
        ("People and women, children", ["person"] * 3),
        ("a baby elephant", ["elephant"]),                  # no baby, so no person
        ("baby elephants", ["elephant"]),
        ("a baby", ["person"]),
        ("hot dogs", ["hot dog"]),                          # no dog
        ("two stop lights and knives", ["traffic light", "knife"]),
        ("the seat of the toilet", ["toilet"]),             # no chair
        ("a toilet seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("buses, couches, a bow tie", ["bus", "couch", "tie"]),
        ("a man's dog", ["person", "dog"]),
        ("a tree", []),
        ("", []),
    ],
)
def test_mentions(synonyms, caption, objects):
    assert Chair(synonyms).mentions(caption) == objects


# chair_s = hallucinating captions / captions; chair_i = hallucinated / all mentions
@pytest.mark.parametrize(
    ("captions", "images", "values"),
    [
        (["a dog"], [["dog"]], (0, 0, 1)),
        (["a dog"], [["bus"]], (1, 1, 0)),
        (["a puppy"], [["dog"]], (0, 0, 1)),                 # synonyms are one object
        (["a dog and a bus"], [["dog"]], (1, 1 / 2, 1)),
        (["a dog"], [["dog", "bus"]], (0, 0, 1 / 2)),
        (["a dog"], [["bus", "A puppy runs."]], (0, 0, 1 / 2)),  # human captions count too
        (["a bus, a bus, a dog"], [["dog"]], (1, 2 / 3, 1)),
        (["a dog", "a bus"], [["dog"], ["dog"]], (1 / 2, 1 / 2, 1 / 2)),
        (["a dog and a dog", "a bus"], [["dog"], ["dog"]], (1 / 2, 1 / 3, 1 / 2)),
        (["a tree"], [["dog"]], (0, 0, 0)),
        (["", "a dog"], [["dog"], ["dog", "tie"]], (0, 0, 1 / 3)),
    ],
)
def test_measures(synonyms, captions, images, values):
    metric = Chair(synonyms)
    metric.update(captions, images)
    found = metric.compute()
    for name, value in zip(("chair_s", "chair_i", "recall"), values, strict=True):
        assert found[name].item() == pytest.approx(value), name


def test_files_without_synonyms_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Chair(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no synonyms"):
        Chair(tmp_path / "empty.txt")
