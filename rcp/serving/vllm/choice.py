"""Which tokens of an image an entry stage keeps, chosen as an attached plug-in chooses them."""

import torch
from torch import Tensor

from rcp.attaching.encoder_watch import VisionFacts
from rcp.attaching.forwards.entry import entry_facts
from rcp.attaching.forwards.forward import Setup
from rcp.attaching.forwards.short_prompt import ShortPrompt
from rcp.backbones import Backbone
from rcp.choosing.tokens import build_token_map
from rcp.errors import UserError
from rcp.plugin import Plugin


def prepared(backbone: Backbone, plugin: Plugin) -> Setup:
    """``plugin``, an entry stage, on ``backbone``.

    Raises ``UserError`` for what the vision side cannot give, other sizes, and a decoder that
    counts rows by something else than positions.
    """
    name = type(backbone.model).__name__
    sizes = (backbone.hidden_size, backbone.text_config.num_hidden_layers)
    if sizes != (plugin.hidden_size, plugin.num_layers):
        raise UserError(
            f"This plug-in fits decoders of width {plugin.hidden_size} with {plugin.num_layers} "
            f"layers; {name} has width {sizes[0]} and {sizes[1]} layers. Serve the base it was "
            f"made for."
        )
    if not backbone.takes_shorter_prompts:
        raise UserError(
            f"The decoder of {name} has sliding windows, which count original columns: a prompt "
            f"that has lost rows is another one to it. Serve a model of full attention."
        )
    facts = entry_facts(backbone, plugin)
    return Setup(backbone, plugin, None, None, facts, before_decoder=True)


@torch.no_grad()
def chosen(
    setup: Setup,
    features: Tensor,
    before: Tensor,
    after: Tensor,
    encoded: VisionFacts,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks (k,) long of the tokens kept of an image, rising, and what is left of it, (k, D).

    ``features`` (N, D) are the image's, ``before`` and ``after`` (., D) the embeddings of the
    prompt around it, ``encoded`` the vision side's facts, each (N, F), and ``positions`` (3, T)
    long those of all of it, where they are not its columns.
    """
    embeds = torch.cat([before, features.to(before), after])[None]
    columns = torch.arange(embeds.shape[1], device=embeds.device)[None]
    image = (columns >= len(before)) & (columns < len(before) + len(features))
    tokens = build_token_map(image, torch.ones_like(image))
    forward = ShortPrompt(setup, tokens, None, None, None)
    forward.entry.encoded = encoded
    at = columns if positions is None else positions[:, None]
    arguments = {"inputs_embeds": embeds, "position_ids": at, "attention_mask": None}
    left = forward.enter(arguments)["inputs_embeds"][0]
    ranks = forward.survivors.alive[0].nonzero()[:, 0]
    return ranks, left[len(before) : len(before) + len(ranks)]
