"""``attach(model, plugin, mode)``: refuse what is impossible, then hook."""

from torch import nn

from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.forwards.forward import Setup
from rcp.attaching.forwards.short_prompt import runs_before_decoder
from rcp.attaching.handle import Handle
from rcp.attaching.refusals import refuse_impossible
from rcp.backbones import Backbone, backbone_for
from rcp.backbones.tower import SURVIVORS
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.sampling import Sampling
from rcp.choosing.schedule import mean_ratio_of
from rcp.plugin import Plugin


def attach(
    model: nn.Module,
    plugin: Plugin,
    mode: str = "drop",
    *,
    plan: KeepPlan | None = None,
    relaxation: Relaxation | Sampling | None = None,
    budget: float | None = None,
) -> Handle:
    """Attach ``plugin`` to an unmodified Hugging Face ``model``.

    ``mode``: "drop" infers with the tokens physically gone, "soft" trains with them masked,
    "record" only observes. Where tokens can be lost before the decoder alone, "soft" has them gone,
    too: what comes behind learns, the choice does not. So has it inside a vision tower that drops.
    ``plan`` replays a recorded choice instead of making one; ``relaxation`` softens and perturbs
    the choice while training, or has it drawn. ``budget`` is for plug-ins trained for a range of
    them, or not trained at all: visual tokens, mean over layers; below 1 a share of them. In "drop"
    mode ``model.generate(..., visual_budget=...)`` takes another one for that call, or a list or
    1-D tensor of one a row. The plug-in's parts move to the devices of the layers they act on, and
    in "drop" mode to the model's dtype and out of training mode.

    Use the returned handle as a context manager, or call its ``remove``: afterwards the model
    is bit for bit what it was. Raises ``UserError`` for an unknown mode or family, another base
    than the plug-in's own, a plan of other stages, a model that already has a plug-in attached, a
    budget it was not trained for, or what the model cannot give or its attention cannot mask.
    """
    refuse_impossible(model, plugin, mode, plan)
    backbone = backbone_for(model)
    if budget is not None:
        plugin = plugin.at_budget(mean_ratio_of(budget, backbone.visual_tokens))
    facts = entry_facts(backbone, plugin, replayed=plan is not None)
    if mode == "record":
        facts -= {SURVIVORS}  # its vision tower stays whole
    before = _works_before_decoder(backbone, plugin, mode)
    return Handle(Setup(backbone, plugin, plan, relaxation, facts, before), mode)


def _works_before_decoder(backbone: Backbone, plugin: Plugin, mode: str) -> bool:
    """Whether nothing is read or changed inside the decoder, but for repair."""
    if mode == "drop":
        return runs_before_decoder(backbone, plugin)
    if not backbone.only_before:
        return False
    return mode == "record" or runs_before_decoder(backbone, plugin)
