"""Accuracy where an answer is one of a few lettered options."""

from collections.abc import Sequence
from string import ascii_uppercase

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.evaluation.metrics.letters import RULES
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal


class LetterChoice(AnswerMetric):
    """Share of samples whose answer names the right option by its letter.

    ``rule`` says how the letter is found (:mod:`rcp.evaluation.metrics.letters`): ``scienceqa``;
    ``mmmu``, also for AI2D; ``first_letter``, MMStar's, also for SEED, RealWorldQA and MVBench;
    ``first_capital``, Video-MME's.

    **An unparsable answer, an empty one too, is wrong.** MMMU's own code draws an option at random
    for it, so that the score changes from run to run: ``accuracy_if_guessed`` is that score's mean
    over all draws. ``accuracy``, ``accuracy_if_guessed`` and ``unparsable``, the share, are from 0
    to 1; NaN without samples.
    """

    name = "letter_choice"
    source = "ScienceQA, MMMU, MMStar and Video-MME, by the rule chosen"
    sums: Tensor

    def __init__(self, rule: str) -> None:
        """``rule`` is a name of ``RULES``; raises ``UserError`` for any other."""
        super().__init__()
        if rule not in RULES:
            raise UserError(f"There is no letter rule '{rule}'. Choose among {', '.join(RULES)}.")
        self.rule = rule
        # right, right by chance, unparsable, samples
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        options: Sequence[Sequence[str]],
    ) -> None:
        """Count one batch; ``references`` are letters, ``options`` the texts that A, B, ... name.

        Raises ``UserError`` for columns of unequal length and for a letter without its option.
        """
        refuse_unequal(predictions=predictions, references=references, options=options)
        for prediction, reference, texts in zip(predictions, references, options):
            refuse_no_option(reference, texts)
            letter = RULES[self.rule](prediction, texts)
            chance = 1 / len(texts) if letter is None else 0.0
            row = [letter == reference, chance, letter is None, 1.0]
            self.sums += self.sums.new_tensor(row)

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``accuracy_if_guessed`` and ``unparsable``."""
        right, chance, unparsable = self.sums[:3] / self.sums[3]
        return {"accuracy": right, "accuracy_if_guessed": right + chance, "unparsable": unparsable}


def refuse_no_option(reference: str, options: Sequence[str]) -> None:
    """Raise ``UserError`` where ``reference`` is not the letter of one of ``options``."""
    letters = ascii_uppercase[: len(options)]
    if len(reference) != 1 or reference not in letters:
        raise UserError(
            f"The reference {quoted(reference)} names none of {len(options)} options: give a "
            f"capital letter from A on."
        )
