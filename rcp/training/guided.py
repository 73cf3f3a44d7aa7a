"""The first stage: the loss of pruners that learn from the teacher's attention."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcp import losses
from rcp.errors import UserError
from rcp.forwards.trace import Trace
from rcp.labels import attention_labels, sinks
from rcp.plugin import Plugin
from rcp.training.stages import GuideOptions


def guide_term(
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
    assert teacher.visual_valid is not None
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


def refuse_waiting_for_idle_parts(trainer: pl.Trainer) -> None:
    """Refuse data-parallel training that waits for gradients of parts idle in the first stage."""
    strategy = trainer.strategy
    if type(strategy) is not pl.strategies.DDPStrategy or trainer.world_size == 1:
        return  # the others look for themselves which parameters have a gradient
    if not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise UserError(
            "model.guide trains pruners alone at first, and plain data-parallel training would "
            "wait for gradients of all other parts for ever. Set trainer.strategy to "
            "ddp_find_unused_parameters_true, or model.guide to null."
        )
