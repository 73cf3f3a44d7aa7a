"""What repair remembers of the stages, and adds to later rows: bookkeeping in plain tensors."""

import torch
from torch import Tensor

from rcp.choosing.tokens import TokenMap, columns_of, take_rows
from rcp.repair import RepairAdapter
from rcp.repair.base import Dropping


class Repairing:
    """The repair of one forward by ``adapter``; without one, nothing is remembered or added.

    ``contexts``: by stage, what the adapter made of the dropped tokens, (B, C); ``pruned_sum``
    (B, D) fp32 the normed rows dropped so far; both are changed by :meth:`remember` alone, and by
    :meth:`go_on`, which alone changes ``sees_image`` (B, 1) bool: the samples that have had an
    image so far. ``columns`` (B, A) long are repaired where ``valid`` (B, A): all text with
    ``all_text``, else the rows that predict answers.
    """

    def __init__(self, adapter: RepairAdapter | None, tokens: TokenMap, all_text: bool) -> None:
        self.adapter = adapter
        self.exists = tokens.visual_valid
        self.columns, self.valid = tokens.answer_columns, tokens.answer_valid
        if all_text:
            self.columns, self.valid = columns_of(
                tokens.valid & ~tokens.image, max(tokens.text_counts)
            )
        self.sees_image = tokens.visual_valid.any(1, keepdim=True)
        self.contexts: dict[int, Tensor] = {}
        self.pruned_sum: Tensor | None = None
        self._earlier: dict[int, Tensor] = {}

    def go_on(self, contexts: dict[int, Tensor], sees_image: Tensor) -> None:
        """Continue a generation that has these ``contexts`` and ``sees_image`` already."""
        self._earlier = contexts
        self.contexts = dict(contexts)
        self.sees_image = self.sees_image | sees_image

    def remember(
        self, stage: int, normed: Tensor, gone: Tensor, alive: Tensor, grid: Tensor
    ) -> None:
        """Make the context of ``stage``, which dropped the rows ``gone`` (B, n) of ``normed``
        (B, n, D) and left ``alive`` (B, N) bool of all slots, placed at ``grid`` (B, N, 2)."""
        assert self.adapter is not None
        # that of the first repair layer
        device = next(self.adapter.parameters(), normed).device
        dropped = torch.where(gone.to(normed.device)[..., None], normed, 0).float().sum(1)
        dropped = dropped.to(device)
        self.pruned_sum = dropped if self.pruned_sum is None else self.pruned_sum + dropped
        context = self.adapter.remember(
            Dropping(
                alive=alive.to(device),
                exists=self.exists.to(device),
                grid=grid.to(device),
                pruned_sum=self.pruned_sum,
                pruned_count=(self.exists & ~alive).sum(1).to(device),
            )
        )
        if stage in self._earlier:
            # a sample without a new image goes on with what its older ones left
            new = self.exists.any(1, keepdim=True).to(context.device)
            context = torch.where(new, context, self._earlier[stage].to(context))
        self.contexts[stage] = context

    def acts_at(self, layer: int) -> bool:
        """Whether ``layer`` is a repair layer."""
        return self.adapter is not None and layer in self.adapter.layers

    def repaired(self, layer: int, stage: int | None, hidden: Tensor, rows: Tensor) -> Tensor:
        """``hidden`` (B, R, D), the output of a repair ``layer`` under ``stage``, with the change
        at ``rows`` (B, A), where ``columns`` are now; as it is before the first stage."""
        if self.adapter is None or stage is None or stage not in self.contexts:
            return hidden
        parameter = next(self.adapter.parameters(), hidden)
        states = take_rows(hidden, rows).to(parameter)
        change = self.adapter(layer, states, self.contexts[stage].to(parameter))
        shown = (self.valid & self.sees_image).to(hidden.device)
        change = torch.where(shown[..., None], change.to(hidden), 0)
        rows = rows.to(hidden.device)
        return hidden.scatter_add(1, rows[..., None].expand_as(change), change)
