"""How many visual tokens a request keeps of each of its images."""

from dataclasses import replace

from rcp.choosing.schedule import ratio_of
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.quoting import quoted

ARGUMENT = "visual_budget"
"""Under this name a request gives its own, in ``mm_processor_kwargs``."""

ALL = "all"
"""What a request gives to switch pruning off."""


def share_of(asked: object, plugin: Plugin, tokens: int) -> float | None:
    """The share of each image's tokens that ``asked`` keeps; None where nothing is to be dropped.

    ``plugin`` is an entry stage; ``asked`` is what a request or the server's settings say, None
    for the plug-in's own. An image has ``tokens``. Raises ``UserError`` for what is no budget, or
    one that the plug-in was not trained for.
    """
    if asked is None:
        return plugin.schedule.ratios[0]
    if asked == ALL:
        return None
    number = asked if isinstance(asked, (int, float)) and not isinstance(asked, bool) else 0
    if 0 < number < 1:
        return at_share(plugin, float(number)).schedule.ratios[0]
    if number < 1 or number % 1:  # NaN and infinity among them: their remainder is NaN
        raise UserError(
            f"{ARGUMENT} is {quoted(asked)}. Give a whole number of tokens of an image, a share of "
            f'them between 0 and 1, or "{ALL}" to prune nothing.'
        )
    return at_share(plugin, ratio_of(number, tokens)).schedule.ratios[0]


def at_share(plugin: Plugin, share: float) -> Plugin:
    """The entry stage ``plugin``, keeping ``share`` of the tokens.

    A method without weights keeps any; raises ``UserError`` for a trained one outside the range
    it was trained for.
    """
    if share == plugin.schedule.ratios[0]:
        return plugin
    if next(plugin.parameters(), None) is not None:
        return plugin.at_budget(share)
    stages = [replace(plugin.spec.stages[0], ratio=share)]
    return Plugin(replace(plugin.spec, stages=stages), plugin.hidden_size, plugin.num_layers)
