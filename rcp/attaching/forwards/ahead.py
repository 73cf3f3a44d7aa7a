"""A forward of the unpruned model ahead of the pruned one: what an oracle may look at."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.cache_names import cache_in, cache_name
from rcp.attaching.forwards.forward import Arguments, Setup
from rcp.attaching.forwards.record import RecordForward
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import TokenMap
from rcp.errors import UserError


class AheadForward(RecordForward):
    """Records the question's attention in every layer of the full model.

    It costs a whole prefill of the decoder, which is why only controls should ask for it.
    """

    def __init__(self, setup: Setup, tokens: TokenMap) -> None:
        trace = Trace(tuple(range(len(setup.backbone.layers))))
        super().__init__(replace(setup, facts=frozenset()), tokens, trace)

    @torch.no_grad()
    def attention(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Tensor:
        """Run ``decoder``, whose hooks call this forward: (B, layers, N) fp32.

        Mean over heads and question rows. Raises ``UserError`` if a cache already holds tokens,
        which a forward of its own would not see.
        """
        cache = cache_in(kwargs)
        if cache is not None and cache.get_seq_length() > 0:
            raise UserError(
                "The attention of the full model is taken from a forward of its own, which cannot "
                f"see the {cache.get_seq_length()} tokens already in this cache. Start with an "
                "empty cache, or use a pruner that does not need full_attention."
            )
        mask = kwargs.get("attention_mask")
        # without mask and cache, gaps in position ids would be taken for document borders
        mask = self.tokens.valid.long() if mask is None else mask
        changed = {cache_name(decoder): None, "use_cache": False, "attention_mask": mask}
        decoder(*args, **kwargs | changed)
        assert self.trace is not None
        found = self.trace.question_attention
        if not found:  # no sample has an image
            batch, slots = self.tokens.visual_valid.shape
            shape = batch, len(self.backbone.layers), slots
            return torch.zeros(shape, device=self.tokens.image.device)
        return torch.stack([found[layer] for layer in sorted(found)], dim=1)
