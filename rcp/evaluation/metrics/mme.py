"""MME: two questions about each image, one of them to be answered with no."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.evaluation.metrics.yes_no import label
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = PERCEPTION + COGNITION


class Mme(AnswerMetric):
    """Per category 100 · (accuracy + accuracy+), summed over perception and over cognition.

    Accuracy is the share of questions answered rightly, accuracy+ the share of images of which both
    questions are. An answer is "yes" or "no" if it is that word or letter, else if the word stands
    in its first four characters, "yes" before "no"; **any other answer is wrong**, whichever was
    true. (Fu et al. 2023; ``calculation.py`` of the MME evaluation tool)

    ``perception`` (0 to 2000), ``cognition`` (0 to 800) and ``perception_and_cognition``, all
    called "MME" somewhere: say which. Of each category ``accuracy_<category>`` and
    ``accuracy_plus_<category>``, 0 to 1. NaN for a category without samples, and then for its sum.
    """

    name = "mme"
    source = "MME, calculation.py of the evaluation tool"
    categories: list[Tensor] | Tensor
    images: list[Tensor] | Tensor
    right: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)  # also what a process without samples hands to the others
        for state in ("categories", "images", "right"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        categories: Sequence[str],
        images: Sequence[str],
    ) -> None:
        """Count one batch; the two questions of an image need not be in the same.

        ``references`` are "yes" or "no"; ``images`` tell a category's images apart. Raises
        ``UserError`` for columns of unequal length and for any other reference or category.
        """
        refuse_unequal(
            predictions=predictions, references=references, categories=categories, images=images
        )
        rows = []
        for prediction, reference, category, image in zip(
            predictions, references, categories, images
        ):
            if category not in CATEGORIES:
                raise UserError(
                    f"MME has no category {quoted(category)}. Choose among {', '.join(CATEGORIES)}."
                )
            right = says(prediction) is label(reference)
            rows.append((CATEGORIES.index(category), _number(f"{category}/{image}"), right))
        if rows:
            columns = torch.tensor(rows, dtype=torch.float64, device=self.device).unbind(1)
            for state, column in zip((self.categories, self.images, self.right), columns):
                state.append(column)  # type: ignore[union-attr]  # a tensor only after a gather

    def compute(self) -> dict[str, Tensor]:
        """The sums, and both accuracies of each category.

        Raises ``UserError`` where an image was not asked about exactly twice.
        """
        accuracy = torch.full((len(CATEGORIES),), torch.nan, dtype=torch.float64)
        accuracy_plus = accuracy.clone()
        if len(self.right):
            images, inverse, asked = dim_zero_cat(self.images).unique(
                return_inverse=True, return_counts=True
            )
            if (asked != 2).any():
                raise UserError(
                    f"{int((asked != 2).sum())} of {len(images)} images of MME have not exactly "
                    f"two answers. Give every question of an image, and each once."
                )
            right, categories = dim_zero_cat(self.right), dim_zero_cat(self.categories)
            both = torch.zeros_like(images).index_add(0, inverse, right)[inverse] == 2
            for index in categories.unique().long().tolist():
                rows = categories == index
                accuracy[index] = right[rows].mean()
                accuracy_plus[index] = both[rows].double().mean()
        scores = 100 * (accuracy + accuracy_plus)
        perception = scores[: len(PERCEPTION)].sum()
        cognition = scores[len(PERCEPTION) :].sum()
        named = {
            "perception": perception,
            "cognition": cognition,
            "perception_and_cognition": perception + cognition,
        }
        for index, category in enumerate(CATEGORIES):
            named[f"accuracy_{category}"] = accuracy[index]
            named[f"accuracy_plus_{category}"] = accuracy_plus[index]
        return named


def says(prediction: str) -> bool | None:
    """True for yes, False for no, None for neither."""
    answer = prediction.strip().lower()
    if len(answer) == 1:
        return {"y": True, "n": False}.get(answer)
    start = answer[:4]
    return True if "yes" in start else False if "no" in start else None


def _number(name: str) -> int:
    """A number below 2^52, exact in float64, that stands for ``name`` in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 12
