"""Training where nothing can be masked: the decoder is given a shorter prompt instead."""

from rcp.backbones import Backbone
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.training.options import OptimizerOptions
from rcp.training.phases import GuideOptions, PolicyOptions, RetentionOptions


def refuse_masked_training(
    backbone: Backbone,
    plugin: Plugin,
    guide: GuideOptions | None,
    optimizer: OptimizerOptions,
    retention: RetentionOptions | None,
    margin: float | None,
    policy: PolicyOptions | None,
) -> None:
    """Raise ``UserError`` for what would need masks, if ``backbone`` loses tokens before its
    decoder alone: its pruner learns from a guide, from gradients of the embeddings, and end to end
    nothing does but low-rank adapters, on prompts from which the tokens are gone."""
    if not backbone.only_before:
        return
    why = (
        f"{type(backbone.model).__name__} {backbone.only_before}, so that training masks nothing "
        f"inside its decoder"
    )
    if plugin.repair is not None:
        raise UserError(
            f"{why}, and repair is not trained on it. Set model.plugin.repair to null; "
            f"model.plugin.lora is trained."
        )
    if plugin.spec.selection != "top_k":
        raise UserError(
            f"{why}, by which selection '{plugin.spec.selection}' would learn its zero. Use "
            f"model.plugin.selection: top_k."
        )
    if retention is not None:
        raise UserError(f"{why}, as soft retention does. Set model.retention to null.")
    if policy is not None:
        raise UserError(
            f"{why}, where the choices of a policy are drawn. Set model.policy to null: a guide "
            f"teaches the pruner."
        )
    if margin is not None:
        raise UserError(f"{why}: what it drops is gone in any case. Set model.margin to null.")
    if guide is not None and guide.layer is not None:
        raise UserError(
            f"{why}, nor looks at what its layer {guide.layer} attends to. Set model.guide.layer "
            f"to null, for the relevance to the answer."
        )
    if any(True for _ in plugin.pruners.parameters()):
        _refuse_pruners_end_to_end(why, guide, optimizer)


def _refuse_pruners_end_to_end(
    why: str, guide: GuideOptions | None, optimizer: OptimizerOptions
) -> None:
    if guide is None:
        raise UserError(
            f"{why}, and its pruner learns from a guide alone. Give model.guide, such as "
            f"{{share: 1.0}}, or a method that is not trained."
        )
    if guide.share < 1 and optimizer.pruners > 0:
        raise UserError(
            f"{why}, and its pruner learns from a guide alone, but model.optimizer.pruners is "
            f"{optimizer.pruners:g} in the steps after model.guide.share = {guide.share:g}. Set it "
            f"to 0, with model.plugin.lora to learn there, or model.guide.share to 1."
        )
