"""What repair remembers of the stages, and adds to later rows: bookkeeping in plain tensors."""

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from rcp.attaching.forwards.survivors import Survivors
from rcp.choosing.positions import Positions
from rcp.choosing.tokens import TokenMap
from rcp.repair import RepairAdapter
from rcp.repair.base import Beside, Dropping

NONE: Mapping[str, Tensor] = MappingProxyType({})


class Repairing:
    """The repair of one forward by ``adapter``; without one, nothing is remembered or added.

    ``contexts``: by stage, what the adapter made of the dropped tokens, (B, C); ``sums`` (B, S)
    fp32 what it added up of those dropped so far; both are changed by :meth:`remember` alone, and
    by :meth:`go_on`, which alone tells of samples that had an image before. The columns ``at`` are
    repaired: all text with ``all_text``, else the rows that predict answers.
    """

    def __init__(self, adapter: RepairAdapter | None, tokens: TokenMap, all_text: bool) -> None:
        self.adapter = adapter
        self.tokens = tokens
        self.at = tokens.text_at if adapter is not None and all_text else tokens.answer_at
        self.contexts: dict[int, Tensor] = {}
        self.sums: Tensor | None = None
        self._earlier: dict[int, Tensor] = {}
        self._saw_image: Tensor | None = None
        self._all_see = min(tokens.host.visual_counts, default=0) > 0

    def go_on(self, contexts: dict[int, Tensor], sees_image: Tensor | None) -> None:
        """Continue a generation that has these ``contexts`` and ``sees_image`` already."""
        self._earlier = contexts
        self.contexts = dict(contexts)
        self._saw_image = sees_image
        self._all_see |= sees_image is None

    @cached_property
    def sees_image(self) -> Tensor | None:
        """(B, 1) bool: the samples that have had an image so far; None where the host knows that
        all have."""
        if self._all_see:
            return None
        if self._saw_image is not None and not self.tokens.has_images:
            return self._saw_image
        here = self.tokens.visual_valid.any(1, keepdim=True)
        return here if self._saw_image is None else here | self._saw_image

    def remember(
        self, stage: int, normed: Tensor, survivors: Survivors, facts: Mapping[str, Tensor] = NONE
    ) -> None:
        """Make the context of ``stage``, which left ``survivors`` of the rows ``normed``
        (B, n, D), the visual slots there were before it, with what the adapter needs to know of
        them, ``facts`` (B, n, F)."""
        assert self.adapter is not None
        if not self.adapter.remembers:
            self.contexts[stage] = normed.new_zeros(len(normed), 0)
            return
        # that of the first repair layer
        tokens, device = self.tokens, next(self.adapter.parameters(), normed).device
        gone = survivors.gone().to(normed.device)
        beside = Beside(survivors.slots.grid, facts) if self.adapter.needs else None
        dropped = self.adapter.summed(normed, gone, beside).to(device)
        self.sums = dropped if self.sums is None else self.sums + dropped
        context = self.adapter.remember(
            Dropping(
                alive=survivors.alive.to(device),
                exists=tokens.visual_valid.to(device),
                grid=tokens.grid.to(device),
                sums=self.sums,
                pruned_each=survivors.gone_each,
                all_placed=tokens.host.all_placed and tokens.visual_at.valid is None,
            )
        )
        if stage in self._earlier:
            # a sample without a new image goes on with what its older ones left
            new = tokens.visual_valid.any(1, keepdim=True).to(context.device)
            context = torch.where(new, context, self._earlier[stage].to(context))
        self.contexts[stage] = context

    def acts_at(self, layer: int) -> bool:
        """Whether ``layer`` is a repair layer."""
        return self.adapter is not None and layer in self.adapter.layers

    def repaired(self, layer: int, stage: int | None, hidden: Tensor, rows: Positions) -> Tensor:
        """``hidden`` (B, R, D), the output of a repair ``layer`` under ``stage``, with the change
        at ``rows``, where the columns ``at`` are now; as it is before the first stage."""
        if self.adapter is None or stage is None or stage not in self.contexts:
            return hidden
        parameter = next(self.adapter.parameters(), hidden)
        states = rows.take(hidden).to(parameter)
        change = self.adapter(layer, states, self.contexts[stage].to(parameter)).to(hidden)
        for shown in (self.at.valid, self.sees_image):
            if shown is not None:
                change = torch.where(shown.to(hidden.device)[..., None], change, 0)
        index = rows.index(hidden)[..., None].expand_as(change)
        return hidden.scatter_add(1, index, change)
