"""``attach(model, plugin, mode)``: what is refused, before anything is hooked."""

from torch import nn

from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.forwards.forward import Setup
from rcp.attaching.handle import Handle
from rcp.attaching.hooks import Hook
from rcp.backbones import Backbone, backbone_for
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.schedule import mean_ratio_of
from rcp.errors import UserError
from rcp.plugin import Plugin

MODES = ("drop", "soft", "record")


def attach(
    model: nn.Module,
    plugin: Plugin,
    mode: str = "drop",
    *,
    plan: KeepPlan | None = None,
    relaxation: Relaxation | None = None,
    budget: float | None = None,
) -> Handle:
    """Attach ``plugin`` to an unmodified Hugging Face ``model``.

    ``mode``: "drop" infers with the tokens physically gone, "soft" trains with them masked,
    "record" only observes. ``plan`` replays a recorded choice instead of making one;
    ``relaxation`` softens and perturbs the choice while training. ``budget`` is for plug-ins
    trained for a range of them: visual tokens, mean over layers; below 1 a share of them. The
    plug-in's parts move to the devices of the layers they act on, and in "drop" mode to the
    model's dtype and out of training mode.

    Use the returned handle as a context manager, or call its ``remove``: afterwards the model
    is bit for bit what it was. Raises ``UserError`` for an unknown mode or family, another base
    than the plug-in's own, a plan of other stages, or a model that already has a plug-in attached.
    """
    if mode not in MODES:
        raise UserError(f"mode '{mode}' is unknown. Choose one of {', '.join(MODES)}.")
    if not isinstance(plugin, Plugin):
        raise UserError(
            f"attach takes a plug-in, not {type(plugin).__name__}. Read an exported folder by "
            f"rcp.load_plugin first, or make one by rcp.Plugin.for_model."
        )
    backbone = backbone_for(model)
    _refuse_second(backbone)
    if plugin.base is not None:
        plugin.base.check(backbone)
    if (plugin.hidden_size, plugin.num_layers) != (backbone.hidden_size, len(backbone.layers)):
        raise UserError(
            f"This plug-in fits decoders of width {plugin.hidden_size} with {plugin.num_layers} "
            f"layers; {type(model).__name__} has width {backbone.hidden_size} and "
            f"{len(backbone.layers)} layers. Attach it to the base it was made for."
        )
    if budget is not None:
        plugin = plugin.at_budget(mean_ratio_of(budget, backbone.visual_tokens))
    if mode == "soft" and backbone.attention not in ("sdpa", "eager"):
        raise UserError(
            f"Training masks need a 4-D attention mask, which '{backbone.attention}' does not "
            f'take. Load the model with attn_implementation="sdpa".'
        )
    if mode == "drop":
        _check_backend(backbone, plugin)
    _check_positions(backbone, plugin)
    if plan is not None and plan.layers != plugin.schedule.layers[: len(plan.layers)]:
        raise UserError(
            f"The plan was made at layers {list(plan.layers)}, the plug-in's stages are at "
            f"{list(plugin.schedule.layers)}. Replay it on a plug-in with the same stages."
        )
    facts = entry_facts(backbone, plugin) if plan is None else frozenset()
    return Handle(Setup(backbone, plugin, plan, relaxation, facts), mode)


def _check_backend(backbone: Backbone, plugin: Plugin) -> None:
    """Refuse attention backends whose masks dropping cannot build."""
    attention = backbone.attention
    if attention not in ("sdpa", "eager") and not attention.startswith("flash"):
        raise UserError(
            f"Dropping builds masks for sdpa, eager and flash attention, not for '{attention}'. "
            f'Load the model with attn_implementation="sdpa".'
        )
    pruned = range(min(plugin.schedule.layers, default=0), len(backbone.layers))
    windows = [layer for layer in pruned if backbone.windows[layer] is not None]
    if attention.startswith("flash") and plugin.schedule.layers and windows:
        raise UserError(
            f"'{attention}' counts the sliding window of layer {windows[0]} in cached rows, which "
            f"are no longer neighbours once tokens are dropped. Load the model with "
            f'attn_implementation="sdpa".'
        )


def _check_positions(backbone: Backbone, plugin: Plugin) -> None:
    """Refuse to close gaps where something besides the rotary embedding counts places."""
    windows = [layer for layer, window in enumerate(backbone.windows) if window is not None]
    if plugin.spec.position_policy == "repack" and windows:
        raise UserError(
            f"position_policy 'repack' is impossible in {type(backbone.model).__name__}: the "
            f"sliding window of layer {windows[0]} counts places in the original prompt, so closed "
            f"gaps would not be closed for it. Use position_policy 'keep'."
        )


def _refuse_second(backbone: Backbone) -> None:
    for hook in backbone.decoder._forward_pre_hooks.values():
        if isinstance(hook, Hook):
            raise UserError(
                "This model already has a plug-in attached. Remove that handle first, or leave "
                "its `with` block."
            )
