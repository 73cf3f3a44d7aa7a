"""What cannot be attached, refused in one call before any work."""

from torch import nn

from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.hooks import Hook
from rcp.backbones import Backbone, backbone_for
from rcp.backbones.before_decoder import refuse_stages_inside
from rcp.choosing.keep_plan import KeepPlan
from rcp.errors import UserError
from rcp.plugin import Plugin

MODES = ("drop", "soft", "record")


def refuse_impossible(model: nn.Module, plugin: Plugin, mode: str, plan: KeepPlan | None) -> None:
    """Raise ``UserError`` unless ``plugin`` can be attached to ``model`` in ``mode``.

    ``plan`` is the one to replay, or None.
    """
    _refuse_mode(mode)
    _refuse_no_plugin(plugin)
    backbone = backbone_for(model)
    _refuse_prefixes(model, backbone)
    _refuse_second(backbone)
    refuse_stages_inside(backbone, plugin.schedule.layers)
    _refuse_other_base(backbone, plugin)
    if plugin.spec.tower is not None:
        plugin.spec.tower.check_on(backbone)
    if backbone.only_before:
        _refuse_work_inside(backbone, plugin)
        if plan is None:
            _refuse_missing_attention(backbone, plugin)
    if mode == "soft":
        _refuse_masks_of_training(backbone)
    if mode == "drop":
        _refuse_masks_of_dropping(backbone)
        _refuse_flash_windows(backbone, plugin)
    _refuse_repacked_windows(backbone, plugin)
    if plan is None:
        entry_facts(backbone, plugin)
    else:
        _refuse_other_stages(plan, plugin)


def _refuse_mode(mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"mode '{mode}' is unknown. Choose one of {', '.join(MODES)}.")


def _refuse_no_plugin(plugin: object) -> None:
    if not isinstance(plugin, Plugin):
        raise UserError(
            f"attach takes a plug-in, not {type(plugin).__name__}. Read an exported folder by "
            f"rcp.load_plugin first, or make one by rcp.Plugin.for_model."
        )


def _refuse_prefixes(model: nn.Module, backbone: Backbone) -> None:
    """A prefix is keys and values that stand in the cache before the first forward."""
    if model is backbone.model:
        return
    for wrapper in model.modules():
        if getattr(wrapper, "peft_type", None) == "PREFIX_TUNING":
            raise UserError(
                "This model is wrapped in a prefix that PEFT has learned, which fills the cache "
                "with keys of no token before the prompt, so that columns could not be told apart. "
                "Attach to its get_base_model() and use that, or choose another kind of adapter."
            )


def _refuse_second(backbone: Backbone) -> None:
    for hook in backbone.decoder._forward_pre_hooks.values():
        if isinstance(hook, Hook):
            raise UserError(
                "This model already has a plug-in attached. Remove that handle first, or leave "
                "its `with` block."
            )


def _refuse_other_base(backbone: Backbone, plugin: Plugin) -> None:
    if plugin.base is not None:
        plugin.base.check(backbone)
    if (plugin.hidden_size, plugin.num_layers) != (backbone.hidden_size, len(backbone.layers)):
        raise UserError(
            f"This plug-in fits decoders of width {plugin.hidden_size} with {plugin.num_layers} "
            f"layers; {type(backbone.model).__name__} has width {backbone.hidden_size} and "
            f"{len(backbone.layers)} layers. Attach it to the base it was made for."
        )


def _refuse_work_inside(backbone: Backbone, plugin: Plugin) -> None:
    """Where nothing inside the decoder can be masked, it can only be given a shorter prompt."""
    name = type(backbone.model).__name__
    if plugin.repair is not None and not backbone.repairable:
        raise UserError(
            f"{name} {backbone.only_before}: repair at layers {list(plugin.repair.layers)} has no "
            f"single hidden state to add to. Use a plug-in without repair."
        )
    if backbone.attention not in ("sdpa", "eager"):
        raise UserError(
            f"{name} is given a shorter prompt, whose gaps in positions '{backbone.attention}' may "
            f"take for borders between texts. Load the model with attn_implementation=\"sdpa\"."
        )


def _refuse_missing_attention(backbone: Backbone, plugin: Plugin) -> None:
    """What the layers compute of a full prompt is not to be had, nor attention where is none."""
    for layer in plugin.schedule.layers:
        pruner, missing = plugin.pruner(layer), {"full_attention"}
        if not backbone.attends(layer):
            missing |= {"attention", "question_attention"}
        if asked := sorted(pruner.needs & missing):
            raise UserError(
                f"The pruner '{pruner.name}' needs '{asked[0]}', which layer {layer} of "
                f"{type(backbone.model).__name__} cannot give: the model {backbone.only_before}. "
                f"Choose a method that looks at embeddings or at the vision tower: `python -m rcp "
                f"pruners` lists what each needs."
            )


def _refuse_masks_of_training(backbone: Backbone) -> None:
    if backbone.attention not in ("sdpa", "eager"):
        raise UserError(
            f"Training masks need a 4-D attention mask, which '{backbone.attention}' does not "
            f'take. Load the model with attn_implementation="sdpa".'
        )


def _refuse_masks_of_dropping(backbone: Backbone) -> None:
    attention = backbone.attention
    if attention not in ("sdpa", "eager") and not attention.startswith("flash"):
        raise UserError(
            f"Dropping builds masks for sdpa, eager and flash attention, not for '{attention}'. "
            f'Load the model with attn_implementation="sdpa".'
        )


def _refuse_flash_windows(backbone: Backbone, plugin: Plugin) -> None:
    if not plugin.schedule.layers or not backbone.attention.startswith("flash"):
        return
    pruned = range(plugin.schedule.layers[0], len(backbone.layers))
    windows = [layer for layer in pruned if backbone.windows[layer] is not None]
    if windows:
        raise UserError(
            f"'{backbone.attention}' counts the sliding window of layer {windows[0]} in cached "
            f"rows, which are no longer neighbours once tokens are dropped. Load the model with "
            f'attn_implementation="sdpa".'
        )


def _refuse_repacked_windows(backbone: Backbone, plugin: Plugin) -> None:
    """Gaps cannot be closed where something besides the rotary embedding counts places."""
    windows = [layer for layer, window in enumerate(backbone.windows) if window is not None]
    counting_originals = windows and not backbone.only_before
    if plugin.spec.position_policy == "repack" and counting_originals:
        raise UserError(
            f"position_policy 'repack' is impossible in {type(backbone.model).__name__}: the "
            f"sliding window of layer {windows[0]} counts places in the original prompt, so closed "
            f"gaps would not be closed for it. Use position_policy 'keep'."
        )


def _refuse_other_stages(plan: KeepPlan, plugin: Plugin) -> None:
    if plan.layers != plugin.schedule.layers[: len(plan.layers)]:
        raise UserError(
            f"The plan was made at layers {list(plan.layers)}, the plug-in's stages are at "
            f"{list(plugin.schedule.layers)}. Replay it on a plug-in with the same stages."
        )
