"""MMBench: an answer counts if it survives every rotation of the options."""

from collections.abc import Sequence
from string import ascii_uppercase

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.evaluation.metrics.letter_choice import refuse_no_option
from rcp.refusals import refuse_unequal

ROTATION = 1_000_000
SPACED = str.maketrans({mark: " " for mark in ".()[],:;!*#{}"})


class MmBench(AnswerMetric):
    """Share of questions answered rightly in every rotation of their options.

    Rotation r of question q has the index q + r · 10^6, so that rows with one index modulo 10^6 are
    one question. An answer names the option whose letter stands in it as a word, if there is just
    one; failing that, the option whose text it contains, if there is just one and the answer is at
    most twice as long as all options together. **Any other answer is wrong.** The official
    evaluation asks a language model about those, which raises scores: published numbers with that
    help are not comparable for models that do not answer by letter. (Liu et al. 2023; the
    "exact matching" of VLMEvalKit)

    ``circular``, ``vanilla`` (the unrotated rows alone) and ``unparsable`` (share of rows): 0 to 1,
    NaN without samples. A question given with fewer rotations is judged by those.
    """

    name = "mmbench"
    source = "MMBench, multiple_choice.py and matching_util.py of VLMEvalKit"
    indices: list[Tensor] | Tensor
    right: list[Tensor] | Tensor
    unparsable: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)  # also what a process without samples hands to the others
        for state in ("indices", "right"):
            self.add_state(state, [], dist_reduce_fx="cat")
        self.add_state("unparsable", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        options: Sequence[Sequence[str]],
        indices: Sequence[int],
    ) -> None:
        """Count one batch; the rotations of a question need not be in the same.

        ``references`` are letters, ``options`` the texts that A, B, ... name in this rotation.
        Raises ``UserError`` for columns of unequal length, a letter without its option and a
        negative index.
        """
        refuse_unequal(
            predictions=predictions, references=references, options=options, indices=indices
        )
        rows = []
        for prediction, reference, texts, index in zip(predictions, references, options, indices):
            refuse_no_option(reference, texts)
            if index < 0:
                raise UserError(f"The index {index} is negative: give the one of MMBench's file.")
            letter = option_of(prediction, texts)
            rows.append((index, letter == reference))
            self.unparsable += letter is None
        if rows:
            columns = torch.tensor(rows, dtype=torch.float64, device=self.device).unbind(1)
            for state, column in zip((self.indices, self.right), columns):
                state.append(column)  # type: ignore[union-attr]  # a tensor only after a gather

    def compute(self) -> dict[str, Tensor]:
        """``circular``, ``vanilla`` and ``unparsable``."""
        if not len(self.right):
            nothing = torch.tensor(torch.nan, dtype=torch.float64)
            return {name: nothing.clone() for name in ("circular", "vanilla", "unparsable")}
        indices, right = dim_zero_cat(self.indices), dim_zero_cat(self.right)
        questions, inverse = (indices % ROTATION).unique(return_inverse=True)
        wrong = torch.zeros_like(questions).index_add(0, inverse, 1 - right)
        return {
            "circular": (wrong == 0).double().mean(),
            "vanilla": right[indices < ROTATION].mean(),
            "unparsable": self.unparsable / len(right),
        }


def option_of(prediction: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that ``prediction`` names or quotes, else None."""
    letters = ascii_uppercase[: len(options)]
    named = set(prediction.translate(SPACED).split()) & set(letters)
    if len(named) == 1:
        return named.pop()
    if len(prediction) > 2 * sum(map(len, options)):
        return None
    quoted = [
        letter
        for letter, option in zip(letters, options)
        if option.lower() in prediction.lower()
    ]
    return quoted[0] if len(quoted) == 1 else None
