"""POPE. Cases follow evaluate.py of RUCAIBox/POPE."""

import pytest

from rcp.errors import UserError
from rcp.evaluation.metrics.pope import Pope, says_yes


@pytest.mark.parametrize(
    ("prediction", "yes"),
    [
        ("yes", True),
        ("No", False),
        ("no, there is none", False),             # commas go before words are told apart
        ("There is not a dog", False),
        ("Yes. No doubt", True),                  # only the first sentence is read
        ("NO", True),                             # only these three spellings are negations
        ("None of them", True),
        ("nothing", True),
        ("I cannot tell", True),                  # unparsable is yes
        ("", True),
        (" No\n", False),
        ("It is a dog, not a cat", False),
    ],
)
def test_what_counts_as_yes(prediction, yes):
    assert says_yes(prediction) is yes


def of_counts(right_yes, wrong_yes, wrong_no, right_no, split):
    """Predictions, references and splits with these outcomes."""
    pairs = [("yes", "yes")] * right_yes + [("yes", "no")] * wrong_yes
    pairs += [("no", "yes")] * wrong_no + [("no", "no")] * right_no
    predictions, references = zip(*pairs)
    return list(predictions), list(references), [split] * len(pairs)


# TP, FP, FN, TN with accuracy, precision, recall, F1 = 2PR/(P+R), share of predicted yes
@pytest.mark.parametrize(
    ("counts", "values"),
    [
        ((2, 0, 0, 2), (1, 1, 1, 1, 0.5)),
        ((0, 2, 2, 0), (0, 0, 0, 0, 0.5)),
        ((2, 2, 0, 0), (0.5, 0.5, 1, 2 / 3, 1)),
        ((0, 0, 2, 2), (0.5, 0, 0, 0, 0)),
        ((3, 1, 1, 3), (0.75, 0.75, 0.75, 0.75, 0.5)),
        ((1, 0, 1, 2), (0.75, 1, 0.5, 2 / 3, 0.25)),
        ((1, 1, 0, 2), (0.75, 0.5, 1, 2 / 3, 0.5)),
        ((4, 1, 1, 0), (2 / 3, 0.8, 0.8, 0.8, 5 / 6)),
        ((1, 3, 0, 0), (0.25, 0.25, 1, 0.4, 1)),
        ((1, 0, 3, 0), (0.25, 1, 0.25, 0.4, 0.25)),
        ((0, 0, 0, 3), (1, 0, 0, 0, 0)),
    ],
)
def test_measures_of_one_split(counts, values):
    metric = Pope()
    metric.update(*of_counts(*counts, "popular"))
    found = metric.compute()
    for name, value in zip(("accuracy", "precision", "recall", "f1", "yes_ratio"), values):
        assert found[f"{name}_popular"].item() == pytest.approx(value)
        assert found[f"{name}_random"].isnan() and found[name].isnan()


def test_the_one_number_is_the_mean_over_splits():
    metric = Pope()
    metric.update(*of_counts(2, 0, 0, 2, "random"))         # F1 1
    metric.update(*of_counts(2, 2, 0, 0, "popular"))        # F1 2/3
    metric.update(*of_counts(1, 3, 0, 0, "adversarial"))    # F1 2/5
    found = metric.compute()
    assert found["f1"].item() == pytest.approx((1 + 2 / 3 + 2 / 5) / 3)
    assert found["yes_ratio"].item() == pytest.approx((0.5 + 1 + 1) / 3)


def test_yes_ratio_counts_predictions_not_the_truth():
    metric = Pope()
    metric.update(["yes", "yes"], ["no", "no"], ["random"] * 2)
    assert metric.compute()["yes_ratio_random"].item() == 1


def test_other_splits_and_references_are_refused():
    with pytest.raises(UserError, match="no split 'hard'"):
        Pope().update(["yes"], ["yes"], ["hard"])
    with pytest.raises(UserError, match="'maybe' is neither"):
        Pope().update(["yes"], ["maybe"], ["random"])
