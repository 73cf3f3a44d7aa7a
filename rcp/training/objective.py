"""From the forwards of student and teacher to the named terms of the loss."""

import inspect
from collections.abc import Container

import torch
from torch import Tensor, nn

from rcp.attaching.trace import Trace
from rcp.backbones import unwrapped
from rcp.choosing.tokens import IGNORED
from rcp.conversations import Batch
from rcp.objectives import losses
from rcp.plugin import Plugin
from rcp.training.options import LossOptions
from rcp.training.phases import GuideOptions, PolicyOptions, teacher_alone

Outcome = tuple[Tensor | None, Trace]
"""Logits (B, C, V) and what the forward saw."""


def term_weights(options: LossOptions, plugin: Plugin) -> dict[str, float]:
    """The terms that apply to this plug-in, with their weights; those of weight 0 are left out."""
    weights = {"task": options.task, "distillation": options.distillation}
    if plugin.repair is not None:
        weights["repair"] = options.repair
    if plugin.spec.selection == "threshold":
        weights["budget"] = options.budget
    return {name: weight for name, weight in weights.items() if weight != 0}


def reads_answers(weights: Container[str]) -> bool:
    """Whether one of the terms of :func:`term_weights` compares with the teacher's answers."""
    return "repair" in weights or "distillation" in weights


def parts_of_teacher(
    weights: Container[str], guide: GuideOptions | None, policy: PolicyOptions | None = None
) -> list[str]:
    """What the steps of a training ask of its teacher, by the names of its cache's parts."""
    answers = reads_answers(weights) and not teacher_alone(guide, policy)
    relevance = guide is not None and guide.layer is None
    return ["images", *["answers"] * answers, *["relevance"] * relevance]


def answer_columns(labels: Tensor) -> int:
    """Columns from the first of a batch that predicts an answer token to the end.

    ``labels`` (B, T), padded on the left.
    """
    return int((labels.shape[1] - (labels != IGNORED).any(0).int().argmax()).item()) + 1


def answer_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (B, C, V) of the last C columns and labels (B, C) of the same columns.

    C is that of :func:`answer_columns`: all other rows would cost vocabulary-sized memory for
    nothing, and are left out where the model can.
    """
    labels = batch["labels"]
    columns = answer_columns(labels)
    asked = {"logits_to_keep": columns} if _takes_logits_to_keep(model) else {}
    # The model needs the labels of all columns to know where the prompt ends, and would compute
    # its own loss from them; `shift_labels` keeps that to the columns there are logits for.
    shifted = nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    shifted = shifted[:, -columns:] if asked else shifted
    output = model(
        **batch["inputs"],
        labels=labels,
        shift_labels=shifted.contiguous(),
        use_cache=False,
        **asked,
    )
    return output.logits[:, -columns:], labels[:, -columns:]


def _takes_logits_to_keep(model: nn.Module) -> bool:
    """MiniCPM-V 4.6, for one, does not: it predicts after every token."""
    return "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters


def loss_terms(
    plugin: Plugin,
    options: LossOptions,
    student: tuple[Tensor, Trace],
    teacher: Outcome,
    labels: Tensor,
    budget: float,
    reduce: losses.Reduce | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The unweighted terms by name, and the mean kept ratio over layers.

    ``labels`` (B, C) belong to the columns of the logits; ``budget`` is the present target of
    the mean kept ratio.
    """
    weights = term_weights(options, plugin)
    logits, seen = student
    teacher_logits, teacher_seen = teacher
    terms = {"task": losses.task_loss(logits, labels, reduce=reduce)}
    if "repair" in weights:
        gaps = [
            losses.repair_loss(
                seen.answer_states[layer],
                teacher_seen.answer_states[layer],
                variance_weight=options.variance,
                normalised=options.normalised,
                form=options.form,
                reduce=reduce,
            )
            for layer in sorted(teacher_seen.answer_states)
        ]
        terms["repair"] = torch.stack(gaps).mean()
    if "distillation" in weights:
        assert teacher_logits is not None
        terms["distillation"] = losses.distillation_loss(
            logits, teacher_logits, labels, reduce=reduce
        )
    assert seen.visual_valid is not None
    mean_ratio = losses.mean_kept_ratio(
        seen.kept,
        seen.visual_valid,
        plugin.schedule.layers[: len(seen.kept)],
        plugin.num_layers,
        reduce=reduce,
    )
    if "budget" in weights:
        terms["budget"] = losses.budget_loss(mean_ratio, budget)
    return {name: term for name, term in terms.items() if name in weights}, mean_ratio
