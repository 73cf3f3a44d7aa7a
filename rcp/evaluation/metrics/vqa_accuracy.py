"""VQA accuracy: agreement with ten people who answered the same question."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import AnswerMetric
from rcp.evaluation.metrics.vqa_text import evalai, vqa_v2, without_punctuation
from rcp.quoting import quoted
from rcp.refusals import refuse_unequal

PEOPLE = 10


class VqaAccuracy(AnswerMetric):
    """Mean over samples of the mean over leave-one-out nines of min(1, matches / 3).

    Each of the ten people is left out in turn; the matches are those of the other nine who gave
    the predicted answer. ``compute`` gives ``accuracy``, from 0 to 1; NaN without samples. An empty
    prediction is an answer as any other. The two ways to spell before comparing differ: say which.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # scores, samples
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Count one batch; ``references`` holds the ten answers to each question.

        Raises ``UserError`` for columns of unequal length and for any other number of answers.
        """
        refuse_unequal(predictions=predictions, references=references)
        for prediction, answers in zip(predictions, references):
            if len(answers) != PEOPLE:
                raise UserError(
                    f"{quoted(list(answers))} are {len(answers)} answers, but VQA accuracy is a "
                    f"mean over {PEOPLE} people. Give all {PEOPLE}, repeated ones too."
                )
            self.sums += self.sums.new_tensor([self.score(prediction, answers), 1.0])

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``"""
        return {"accuracy": self.sums[0] / self.sums[1]}

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """The score of one sample."""
        raise NotImplementedError


class VqaV2Accuracy(VqaAccuracy):
    """VQA accuracy as VQAv2's own evaluation computes it.

    The prediction is always fully processed, the ten answers lose only their punctuation, and only
    where they are not all equal: capitals, articles and number words that stand in the answers can
    then not be matched. (Goyal et al. 2017; ``vqaEval.py`` of GT-Vision-Lab/VQA)
    """

    name = "vqa_v2"
    source = "VQAv2, vqaEval.py of GT-Vision-Lab/VQA"

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        agreed = len(set(answers)) == 1
        compared = answers if agreed else [without_punctuation(answer) for answer in answers]
        return agreement(vqa_v2(prediction), compared)


class EvalAiVqaAccuracy(VqaAccuracy):
    """VQA accuracy with the EvalAI processor on both sides: TextVQA's.

    It is also what lmms-eval takes for VQAv2, where it gives slightly another number than the
    official evaluation. (Singh et al. 2019; ``EvalAIAnswerProcessor`` and ``m4c_evaluators.py`` of
    facebookresearch/mmf)
    """

    name = "vqa_evalai"
    source = "TextVQA, EvalAIAnswerProcessor of facebookresearch/mmf"

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return agreement(evalai(prediction), [evalai(answer) for answer in answers])


def agreement(prediction: str, answers: Sequence[str]) -> float:
    """Mean over leave-one-out of min(1, matches / 3), spellings taken as they are."""
    matches = sum(answer == prediction for answer in answers)
    one_of_them_out = matches * min(1.0, (matches - 1) / 3)
    another_out = (len(answers) - matches) * min(1.0, matches / 3)
    return (one_of_them_out + another_out) / len(answers)
