"""MME. Cases follow calculation.py of the MME evaluation tool."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.mme import CATEGORIES, COGNITION, PERCEPTION, Mme, says


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        ("Yes", True),
        ("no", False),
        ("y", True),
        ("N", False),
        ("x", None),
        ("Yes, it is.", True),
        ("not at all", False),        # "no" is in the first four characters
        ("I know", None),             # "i kn" holds neither
        ("Know", False),
        ("The answer is yes", None),  # it stands too late
        (" yes\n", True),
        ("", None),
    ],
)
def test_what_an_answer_says(prediction, said):
    assert says(prediction) is said


def asked(*images):
    """Both questions of images of one category; an image is its two answers, yes and no true."""
    predictions = [answer for image in images for answer in image]
    names = [str(i) for i in range(len(images)) for _ in range(2)]
    return predictions, ["yes", "no"] * len(images), names


BOTH, FIRST, NEITHER, UNCLEAR = ("yes", "no"), ("yes", "yes"), ("no", "yes"), ("maybe", "no")


# accuracy over questions, accuracy+ over images
@pytest.mark.parametrize(
    ("images", "accuracy", "plus"),
    [
        ([BOTH], 1, 1),
        ([FIRST], 0.5, 0),
        ([NEITHER], 0, 0),
        ([UNCLEAR], 0.5, 0),
        ([BOTH, BOTH], 1, 1),
        ([BOTH, FIRST], 0.75, 0.5),
        ([BOTH, NEITHER], 0.5, 0.5),
        ([FIRST, FIRST], 0.5, 0),
        ([BOTH, FIRST, NEITHER], 0.5, 1 / 3),
        ([BOTH, BOTH, BOTH, UNCLEAR], 7 / 8, 3 / 4),
    ],
)
def test_accuracies_of_a_category(images, accuracy, plus):
    metric = Mme()
    predictions, references, names = asked(*images)
    metric.update(predictions, references, ["count"] * len(names), names)
    found = metric.compute()
    assert found["accuracy_count"].item() == pytest.approx(accuracy)
    assert found["accuracy_plus_count"].item() == pytest.approx(plus)
    assert found["accuracy_scene"].isnan() and found["perception"].isnan()


def test_a_perfect_model_reaches_2000_and_800():
    metric = Mme()
    for category in CATEGORIES:
        metric.update(["yes", "no"], ["Yes", "No"], [category] * 2, ["1.png"] * 2)
    found = metric.compute()
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)
    assert found["perception"].item() == 2000 and found["cognition"].item() == 800
    assert found["perception_and_cognition"].item() == 2800


def test_the_same_image_name_in_two_categories_is_two_images():
    metric = Mme()
    metric.update(["yes", "yes"], ["yes", "no"], ["count", "count"], ["1", "1"])
    metric.update(["yes", "no"], ["yes", "no"], ["color", "color"], ["1", "1"])
    found = metric.compute()
    assert found["accuracy_plus_count"].item() == 0 and found["accuracy_plus_color"].item() == 1


def test_an_image_with_one_answer_is_refused():
    metric = Mme()
    metric.update(["yes"], ["yes"], ["count"], ["1"])
    with pytest.raises(UserError, match="1 of 1 images of MME"):
        metric.compute()


def test_other_categories_are_refused():
    with pytest.raises(UserError, match="no category 'colour'"):
        Mme().update(["yes"], ["yes"], ["colour"], ["1"])
