"""POPE: does the model see objects that are not there?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.evaluation.metrics.yes_no import label
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

SPLITS = ("random", "popular", "adversarial")
NEGATIONS = {"No", "no", "not"}
OUTCOMES = ((True, True), (True, False), (False, False), (False, True))  # says yes, is right


class Pope(AnswerMetric):
    """Accuracy, precision, recall, F1 and yes-ratio of each split, and their means over the splits.

    "Yes" is the positive class. A prediction is "no" if its first sentence, commas removed, has
    "No", "no" or "not" as a word; **everything else is "yes"**, an empty or unparsable answer too.
    The yes-ratio is the share of *predictions* that are "yes"; lmms-eval, which also asks for the
    bare word, counts the ground truth. Papers' one number is the mean F1.
    (Li et al. 2023; ``evaluate.py`` of RUCAIBox/POPE)

    All from 0 to 1: ``f1`` is the mean over the three splits, ``f1_random`` one of them, and so for
    the others. NaN for a split without samples, and then for the mean. Precision, recall and F1
    are 0 where they would divide by nothing.
    """

    name = "pope"
    source = "POPE, evaluate.py of RUCAIBox/POPE"
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(len(SPLITS), len(OUTCOMES), dtype=torch.float64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[str], references: Sequence[str], splits: Sequence[str]
    ) -> None:
        """Count one batch; ``references`` are "yes" or "no", ``splits`` names of ``SPLITS``.

        Raises ``UserError`` for columns of unequal length and for any other reference or split.
        """
        refuse_unequal(predictions=predictions, references=references, splits=splits)
        for prediction, reference, split in zip(predictions, references, splits):
            if split not in SPLITS:
                raise UserError(
                    f"POPE has no split {quoted(split)}. Choose among {', '.join(SPLITS)}."
                )
            yes = says_yes(prediction)
            outcome = OUTCOMES.index((yes, yes == label(reference)))
            self.counts[SPLITS.index(split), outcome] += 1

    def compute(self) -> dict[str, Tensor]:
        """The five measures, each as a mean and of every split."""
        right_yes, wrong_yes, wrong_no, right_no = self.counts.unbind(1)
        total = self.counts.sum(1)
        precision = _ratio(right_yes, right_yes + wrong_yes)
        recall = _ratio(right_yes, right_yes + wrong_no)
        measures = {
            "accuracy": (right_yes + right_no) / total,
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * precision * recall, precision + recall),
            "yes_ratio": (right_yes + wrong_yes) / total,
        }
        named = {}
        for measure, values in measures.items():
            of_splits = torch.where(total > 0, values, torch.nan)
            named[measure] = of_splits.mean()
            named |= {f"{measure}_{split}": of_splits[i] for i, split in enumerate(SPLITS)}
        return named


def says_yes(prediction: str) -> bool:
    """Whether POPE takes ``prediction`` for a "yes"."""
    first_sentence = prediction.strip().split(".")[0]
    return NEGATIONS.isdisjoint(first_sentence.replace(",", "").split(" "))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)
