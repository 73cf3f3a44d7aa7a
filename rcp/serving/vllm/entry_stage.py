"""The part of a plug-in that an engine can run: its stage before the decoder, and adapters."""

from dataclasses import replace

from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec

NOT_SERVED = "vLLM drops visual tokens before the decoder"


def entry_stage(plugin: Plugin, entry_only: bool) -> Plugin:
    """``plugin`` reduced to its stage at layer 0 and its low-rank adapters; weights are shared.

    Raises ``UserError`` for a plug-in without one, or whose number of kept tokens nobody knows
    beforehand, and, unless ``entry_only``, for one that does more than that stage.
    """
    spec = plugin.spec
    if spec.tower is not None:
        raise UserError(
            f"{NOT_SERVED}, and inside no vision tower, as this plug-in does with tower.blocks "
            f"{spec.tower.blocks}. Serve one with a stage at layer 0 instead."
        )
    if not spec.stages or spec.stages[0].layer != 0:
        raise UserError(
            f"{NOT_SERVED} alone, and this plug-in's stages are at the layers "
            f"{[stage.layer for stage in spec.stages]}. Train one with a stage at layer 0."
        )
    _refuse_unknown_counts(plugin)
    if lost := what_is_lost(spec):
        if not entry_only:
            raise UserError(
                f"{NOT_SERVED} alone, and this plug-in also has {' and '.join(lost)}. With "
                f"entry_only its first stage is served by itself, and answers are no longer those "
                f"that were measured; or train a plug-in that has nothing else."
            )
    entry = Plugin(_reduced(plugin), plugin.hidden_size, plugin.num_layers)
    entry.pruners["0"] = plugin.pruner(0)
    entry.lora = plugin.lora
    entry.base = plugin.base
    return entry.eval()


def what_is_lost(spec: PluginSpec) -> list[str]:
    """What a plug-in of ``spec`` does that no engine does, in words."""
    lost = []
    if later := [stage.layer for stage in spec.stages[1:]]:
        lost.append(f"stages inside the decoder, at {_layers(later)}")
    if spec.repair is not None:
        lost.append(f"a repair adapter at {_layers(spec.repair.layers)}")
    return lost


def _layers(layers: list[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def _refuse_unknown_counts(plugin: Plugin) -> None:
    """Placeholders are written before an image is encoded: as many as will be kept."""
    pruner = plugin.pruner(0)
    reason = ""
    if plugin.spec.selection != "top_k":
        reason = f"selection '{plugin.spec.selection}' keeps what its scores say"
    elif pruner.may_drop_all:
        reason = f"the pruner '{pruner.name}' may keep nothing of an image"
    elif plugin.schedule.ratios[0] == 0:
        reason = "a stage that keeps 0 visual tokens leaves vLLM no place for an image"
    if reason:
        raise UserError(
            f"vLLM must know how many visual tokens an image keeps before it is encoded, but "
            f"{reason}. Serve a plug-in with selection 'top_k' and a number of tokens to keep."
        )
    if "full_attention" in pruner.needs:
        raise UserError(
            f"The pruner '{pruner.name}' needs a forward of the whole unpruned model, which no "
            f"engine makes beforehand. Choose a method that looks at what enters the decoder."
        )


def _reduced(plugin: Plugin) -> PluginSpec:
    """Budgets become those of the first stage: what enters the decoder."""
    spec, budgets = plugin.spec, plugin.spec.budgets
    if budgets is not None:
        budgets = [plugin.at_budget(budget).schedule.ratios[0] for budget in budgets]
    return replace(spec, stages=spec.stages[:1], repair=None, budgets=budgets)
