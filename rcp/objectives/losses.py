"""The terms of the training loss, as plain functions of tensors.

``reduce`` is a *differentiable* all-reduce (sum), or ``None`` in a single process. With it every
term is a statistic of the global micro-batch: all ranks compute the same number, and as the
backward of the all-reduce sums the gradients of all ranks, the mean that data-parallel training
takes over ranks is exactly the gradient one process would have seen with the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rcp.choosing.tokens import IGNORED

Reduce = Callable[[Tensor], Tensor]
MomentForm = Literal["moments", "w2"]

EPSILON = 1e-5
"""Added to variances: a dimension that never varies must not divide by zero."""


def task_loss(logits: Tensor, labels: Tensor, *, reduce: Reduce | None = None) -> Tensor:
    """Cross-entropy on the answer tokens: mean per sample, then mean over samples. [draft]

    ``logits`` (B, T, V): row t predicts the token at column t + 1; ``labels`` (B, T) long,
    ``IGNORED`` outside the answer. Samples without an answer token do not count. 0-d fp32.
    """
    answer = labels[:, 1:] != IGNORED
    per_token = answer_log_likelihoods(logits, labels)
    return mean_over_samples(-per_token, answer, reduce)


def answer_log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-likelihood of each answer token at the column before it, (B, T - 1) fp32; 0 elsewhere.

    ``logits`` and ``labels`` as in :func:`task_loss`.
    """
    targets = labels[:, 1:]
    answer = targets != IGNORED
    rows = -F.cross_entropy(logits[:, :-1][answer].float(), targets[answer], reduction="none")
    return torch.zeros(targets.shape, device=rows.device).masked_scatter(answer, rows)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, reduce: Reduce | None = None
) -> Tensor:
    """KL divergence from the teacher's to the student's answer distributions. [ours]

    ``student`` and ``teacher`` (B, T, V) logits, ``labels`` as in :func:`task_loss`, averaged
    alike. 0-d fp32.
    """
    answer = labels[:, 1:] != IGNORED
    log_student = student[:, :-1][answer].float().log_softmax(-1)
    log_teacher = teacher[:, :-1][answer].float().log_softmax(-1)
    rows = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)
    per_token = torch.zeros(answer.shape, device=rows.device).masked_scatter(answer, rows)
    return mean_over_samples(per_token, answer, reduce)


def repair_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    variance_weight: float = 3.0,
    normalised: bool = True,
    form: MomentForm = "moments",
    reduce: Reduce | None = None,
) -> Tensor:
    """Gap between the first two moments of student and teacher at one repair layer. [draft]

    ``student`` and ``teacher`` (R, D): the rows that predict answer tokens, R may be 0 on some
    ranks. ``mean_d (μ_s-μ_t)² + variance_weight · mean_d (v_s-v_t)²``, in fp32, v the biased
    variance over rows. ``form="w2"`` compares standard deviations instead of variances (the
    2-Wasserstein distance of diagonal Gaussians at ``variance_weight`` 1). ``normalised`` [ours]
    measures in units of the teacher's own spread: ``(μ_s-μ_t)²/(v_t+ε)``, the gap of *log*
    variances, and ``(σ_s-σ_t)²/(v_t+ε)``; un-normalised the term drowned the task loss a
    thousandfold on a pilot.
    """
    student, teacher = student.float(), teacher.float()
    width = student.shape[1]
    count = student.new_full((1,), student.shape[0])
    sums = _reduced(torch.cat([student.sum(0), teacher.sum(0), count]), reduce)
    rows = sums[-1].detach().clamp(min=1)
    mean_s, mean_t = sums[:width] / rows, sums[width:-1] / rows
    # A second reduction, of squared deviations: E[h²] - μ² would cancel in fp32.
    squares = torch.cat([(student - mean_s).square().sum(0), (teacher - mean_t).square().sum(0)])
    variance_s, variance_t = (_reduced(squares, reduce) / rows).split(width)

    spread = variance_t + EPSILON if normalised else torch.ones_like(variance_t)
    mean_gap = (mean_s - mean_t).square() / spread
    if form == "w2":
        deviation_s, deviation_t = (variance_s + EPSILON).sqrt(), (variance_t + EPSILON).sqrt()
        variance_gap = (deviation_s - deviation_t).square() / spread
    elif normalised:
        variance_gap = ((variance_s + EPSILON).log() - (variance_t + EPSILON).log()).square()
    else:
        variance_gap = (variance_s - variance_t).square()
    # a single row has no spread to compare by
    return (mean_gap.mean() + variance_weight * variance_gap.mean()) * (sums[-1].detach() >= 2)


def mean_kept_ratio(
    kept: Sequence[Tensor],
    visual_valid: Tensor,
    layers: Sequence[int],
    num_layers: int,
    *,
    reduce: Reduce | None = None,
) -> Tensor:
    """Share of the visual tokens alive, averaged over the decoder's layers. [computed]

    ``kept[i]`` (B, N) is the cumulative mask from layer ``layers[i]`` on; the layers before the
    first stage keep all. ``visual_valid`` (B, N) bool; samples without an image do not count.
    ``(n_0 + Σ n_i · mean(c_i)) / L``, 0-d fp32, 1 where no sample has an image.
    """
    bounds = [*layers, num_layers]
    spans = [after - before for before, after in zip(bounds, bounds[1:])]
    total = bounds[0] * visual_valid.float()
    for span, mask in zip(spans, kept):
        total = total + span * mask.float() * visual_valid
    ratio = mean_over_samples(total / num_layers, visual_valid, reduce)
    return torch.where(_count(visual_valid.any(1), reduce) > 0, ratio, torch.ones_like(ratio))


def budget_loss(mean_ratio: Tensor, target: float) -> Tensor:
    """``|r̄ - r*|`` of the 0-d ``mean_ratio`` and its target. [draft]"""
    return (mean_ratio - target).abs()


def score_loss(
    scores: Tensor, labels: Tensor, known: Tensor, *, reduce: Reduce | None = None
) -> Tensor:
    """Mean squared error of ``scores`` against ``labels``, both (B, N). CoViPAL stage 1 [note].

    Over the visual tokens in ``known`` (B, N) bool, then over samples. 0-d fp32.
    """
    return mean_over_samples((scores.float() - labels).square(), known, reduce)


def ranking_loss(
    scores: Tensor, labels: Tensor, known: Tensor, *, reduce: Reduce | None = None
) -> Tensor:
    """KL divergence from ``labels`` to the softmax of ``scores``, mean over samples. [ours]

    ``labels`` (B, N) are shares that sum to one, or all zero in samples that do not count; over
    the visual tokens in ``known`` (B, N) bool. Top-k reads the scores' order alone, and so does
    this: a constant added to a sample's scores changes nothing. 0-d fp32.
    """
    scores = scores.float().masked_fill(~known, torch.finfo(torch.float32).min)
    counted = known & (labels > 0).any(1, keepdim=True)
    gap = torch.xlogy(labels, labels) - labels * scores.log_softmax(1).clamp(min=-1e4)
    number = counted.sum(1, keepdim=True)  # the mean over samples is one over tokens, too
    return mean_over_samples(gap * number, counted, reduce)


def retention_loss(
    retained: Tensor, visual_valid: Tensor, ratio: float, *, reduce: Reduce | None = None
) -> Tensor:
    """``(mean s - r)²``, mean over samples. CoViPAL stage 2 [ours].

    ``retained`` (B, N) in [0, 1], ``visual_valid`` (B, N) bool; a mean for each sample, because
    each of them will have to do with its own share of tokens. 0-d fp32.
    """
    number = visual_valid.sum(1, keepdim=True).clamp(min=1)
    mean = (retained.float() * visual_valid).sum(1, keepdim=True) / number
    return mean_over_samples((mean - ratio).square(), visual_valid.any(1, keepdim=True), reduce)


def indecision_loss(
    retained: Tensor, visual_valid: Tensor, *, reduce: Reduce | None = None
) -> Tensor:
    """Mean of ``s(1-s)`` over tokens, then samples; 0 where all is decided. [ours]"""
    retained = retained.float()
    return mean_over_samples(retained * (1 - retained), visual_valid, reduce)


def mean_over_samples(values: Tensor, mask: Tensor, reduce: Reduce | None) -> Tensor:
    """Mean of ``values`` (B, T) where ``mask`` (B, T) holds, per sample, then over samples."""
    per_sample = (values * mask).sum(1) / mask.sum(1).clamp(min=1)
    return _reduced(per_sample.sum(), reduce) / _count(mask.any(1), reduce).clamp(min=1)


def _count(present: Tensor, reduce: Reduce | None) -> Tensor:
    return _reduced(present.sum().float(), reduce)


def _reduced(value: Tensor, reduce: Reduce | None) -> Tensor:
    return value if reduce is None else reduce(value)
