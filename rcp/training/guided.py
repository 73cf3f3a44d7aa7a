"""The losses of pruners that learn from the teacher alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from rcp.attaching.trace import Trace
from rcp.errors import UserError
from rcp.objectives import losses
from rcp.objectives.labels import attention_labels, relevance_labels, sinks
from rcp.plugin import Plugin
from rcp.training.optimizer import parts_of
from rcp.training.phases import GuideOptions, PolicyOptions
from rcp.training.teacher.passes import Lesson


def guide_term(
    plugin: Plugin,
    options: GuideOptions,
    layers: Sequence[int],
    lesson: Lesson,
    reduce: losses.Reduce | None,
) -> Tensor:
    """How far the pruners at ``layers`` are from what the guide teaches in ``lesson``; 0-d."""
    if lesson.relevance is None:
        return attention_term(plugin, options, layers, lesson.trace, reduce)
    return relevance_term(plugin, layers, lesson.relevance, lesson.trace, reduce)


def attention_term(
    plugin: Plugin,
    options: GuideOptions,
    layers: Sequence[int],
    teacher: Trace,
    reduce: losses.Reduce | None,
) -> Tensor:
    """Gap between the scores at the pruning ``layers`` and their labels, mean over layers; 0-d.

    ``teacher`` holds the attention of the guide layer and the views of ``layers``. Every pruner
    sees all visual tokens, dropped by no earlier stage.
    """
    assert teacher.visual_valid is not None and options.layer is not None
    attention = teacher.question_attention[options.layer]
    known = teacher.visual_valid
    if options.sinks is not None:
        known = known & ~sinks(attention, known, options.sinks)
    terms = []
    for layer in layers:
        stage = plugin.schedule.layers.index(layer)
        counts = [plugin.schedule.count(stage, n) for n in teacher.visual_valid.sum(1).tolist()]
        labels = attention_labels(
            attention, known, torch.tensor(counts, device=attention.device), options.form
        )
        scores = plugin.pruner(layer)(teacher.views[layer]).to(labels.device)
        terms.append(losses.score_loss(scores, labels, known, reduce=reduce))
    return torch.stack(terms).mean()


def relevance_term(
    plugin: Plugin,
    layers: Sequence[int],
    relevance: Tensor,
    teacher: Trace,
    reduce: losses.Reduce | None,
) -> Tensor:
    """Gap between the scores at the pruning ``layers`` and the ``relevance`` (B, L, N); 0-d.

    What counts at a stage is the relevance from its layer on: it decides for all of them.
    """
    terms = []
    for layer in layers:
        view = teacher.views[layer]
        # a batch of text alone has one slot in its views, and no visual token
        missing = view.alive.shape[1] - relevance.shape[2]
        summed = nn.functional.pad(relevance[:, layer:].sum(1), (0, missing))
        labels = relevance_labels(summed, view.alive)
        scores = plugin.pruner(layer)(view).to(labels.device)
        terms.append(losses.ranking_loss(scores, labels, view.alive, reduce=reduce))
    return torch.stack(terms).mean()


@contextmanager
def frozen(plugin: Plugin, layers: Sequence[int]) -> Iterator[None]:
    """Inside, the pruners at ``layers`` choose as at inference, and nothing computed with them has
    a gradient; what was computed before keeps its own."""
    pruners = [plugin.pruner(layer) for layer in layers]
    for pruner in pruners:
        pruner.requires_grad_(False).eval()
    yield
    for pruner in pruners:
        pruner.requires_grad_(True)


def answers_teach(plugin: Plugin, taught: Sequence[int], pruners: float) -> bool:
    """Whether anything can learn from the answers while the pruners at the layers ``taught`` learn
    from a guide; ``pruners`` is what the others' learning rate is multiplied by end to end."""
    parts = parts_of(plugin, taught)
    return "others" in parts or "untaught" in parts and pruners > 0


def parts_stand_still(
    plugin: Plugin, guide: GuideOptions | None, policy: PolicyOptions | None, pruners: float
) -> bool:
    """Whether a part of the plug-in has no gradient in some steps; ``pruners`` as above."""
    if policy is not None:
        return True
    if guide is None:
        return pruners == 0
    if not guide.online:
        return True
    untaught = "untaught" in parts_of(plugin, guide.pruning(plugin.schedule))
    return pruners == 0 and (guide.share < 1 or untaught)


def refuse_waiting_for_idle_parts(trainer: pl.Trainer) -> None:
    """Refuse data-parallel training that waits for gradients of parts idle in one of its phases."""
    strategy = trainer.strategy
    if type(strategy) is not pl.strategies.DDPStrategy or trainer.world_size == 1:
        return  # the others look for themselves which parameters have a gradient
    if not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise UserError(
            "Parts of the plug-in stand still at times (model.policy and a first phase of "
            "model.guide train pruners alone, model.optimizer.pruners: 0 all but them), and plain "
            "data-parallel training would wait for their gradients for ever. Set trainer.strategy "
            "to ddp_find_unused_parameters_true, or model.guide to online or null, model.policy to "
            "null and model.optimizer.pruners above 0."
        )
