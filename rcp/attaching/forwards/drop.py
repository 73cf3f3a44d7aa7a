"""The inference forward: dropped rows are really gone, and so are their keys in the cache."""

from typing import Any

import torch
from torch import Tensor

from rcp.attaching.cache_names import cache_in
from rcp.attaching.forwards.forward import Arguments, Forward, Setup
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.rows import Rows
from rcp.attaching.generation_state import (
    ATTRIBUTE,
    GenerationState,
    Segment,
    report_original_length,
)
from rcp.attaching.masks import causal, forbid_keys, gather_mask, render
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import TokenMap, take_rows


class DropForward(Forward):
    """A prefill that prunes, a decode step after one, or a forward without a cache.

    ``past`` is the state on the cache, None where it is empty; ``padding`` (B, past + T) the 2-D
    mask the caller gave, or None. At a stage the rows that stay are gathered: hidden states,
    rotary embeddings, rows and columns of the model's own mask. Over cached columns the mask is
    built from original columns and the layer's window, because a model sizes its own by caches
    that are no longer equally long.
    """

    def __init__(
        self,
        setup: Setup,
        tokens: TokenMap,
        trace: Trace | None,
        past: GenerationState | None,
        padding: Tensor | None,
    ) -> None:
        super().__init__(setup, tokens, trace)
        self.owner = id(setup.plugin)
        self.past = past
        self.past_length = past.length if past is not None else 0
        self.padding = padding
        self.segments: list[Segment | None] = list(past.segments) if past is not None else []
        self.segments += [None] * (len(self.schedule.layers) - len(self.segments))
        if past is not None:
            self.contexts = dict(past.contexts)
            self.sees_image = self.sees_image | past.sees_image
        self.cache: Any = None
        self.masks: dict[tuple[int, int, int | None], tuple[Any, Tensor | None]] = {}

    # -- hooks ---------------------------------------------------------------------------------

    def enter(self, arguments: Arguments) -> Arguments:
        shift = None if self.past is None else self.past.shift
        return self.take_over(super().enter(arguments), self.past_length, shift)

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        self.cache = cache_in(arguments)
        stage = self.stage_at(layer)
        if stage is not None:
            hidden = self._begin_stage(stage, layer, hidden, arguments)
        self.look_back(layer, hidden, arguments)
        under = self.schedule.stage_over(layer)
        if under is None or (self.rows.index is None and self.segments[under] is None):
            return hidden, arguments
        arguments = dict(arguments)
        arguments["attention_mask"] = self._mask(under, layer, arguments, hidden.dtype)
        # flash attention takes gaps in position ids for document borders; the rotary embedding,
        # their only other use, is handed over ready-made
        arguments["position_ids"] = None
        arguments["position_embeddings"] = self.rope(arguments)
        return hidden, arguments

    def finish(self, hidden: Tensor) -> Tensor:
        """Back to the original length, so that logits and labels still mean the same columns."""
        if self.trace is not None:
            self.trace.plan = self.plan()
        if self.cache is not None:
            self._leave_state()
        return self.rows.scattered(hidden)

    def _remember(self, stage: int, place: Place, gone: Tensor) -> None:
        super()._remember(stage, place, gone)
        if self.past is not None and stage in self.past.contexts:
            # a sample without a new image goes on with what its older ones left
            new, old = self.contexts[stage], self.past.contexts[stage]
            shown = self.tokens.visual_valid.any(1, keepdim=True).to(new.device)
            self.contexts[stage] = torch.where(shown, new, old.to(new))

    # -- pruning -------------------------------------------------------------------------------

    def _begin_stage(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        if self.tokens.has_images:
            hidden = self._prune(stage, layer, hidden, arguments)
        self.segments[stage] = self._segment(stage)
        return hidden

    def _prune(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        place = self.place(layer, hidden, arguments)
        choice = self.decide(stage, place)
        hidden = self.merged(hidden, place, choice)
        counts = self._kept_counts(stage)
        before = self._counts_before(stage)
        self.slots = self.slots.compacted(choice.keep & self.slots.alive, max(counts))
        if self.trace is not None:
            self.trace.kept.append(self.alive.float())
        if counts == before:
            return hidden  # nothing went: bit for bit the model's own path
        before_rows = self.rows
        left = [text + n for text, n in zip(self.text_counts, counts)]
        self.leave(Rows.kept(self.stages_alive[-1], left))
        self.masks.clear()
        return take_rows(hidden, before_rows.locate(self.rows.columns(self.tokens.image)))

    def _counts_before(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive when ``stage`` begins."""
        return self.counts[stage - 1] if stage else list(self.tokens.visual_counts)

    def _kept_counts(self, stage: int) -> list[int]:
        """What the stage left. Mostly known beforehand in top-k mode; or the device must tell."""
        layers = self.schedule.layers[: stage + 1]
        fixed = not any(self.plugin.pruner(layer).may_drop_all for layer in layers)
        if self.plugin.spec.selection != "top_k" or self.replayed is not None or not fixed:
            self.counts[stage] = self.alive.sum(1).tolist()
        return self.counts[stage]

    # -- masks ---------------------------------------------------------------------------------

    def _mask(
        self, stage: int, layer: int, arguments: Arguments, dtype: torch.dtype
    ) -> Tensor | None:
        own = arguments["attention_mask"]
        window = self.backbone.windows[layer]
        key = id(own), stage, window
        if key not in self.masks:
            if self.past is None:
                assert self.rows.index is not None  # or nothing was dropped yet
                mask = gather_mask(own, self.rows.index, self.rows.real, self.backbone.attention)
            else:
                mask = self._mask_over_past(stage, layer, own, window, dtype)
            self.masks[key] = own, mask  # `own` held, or its id could be given to another
        return self.masks[key][1]

    def _mask_over_past(
        self, stage: int, layer: int, own: Tensor | None, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        keys = self.segments[stage]
        assert keys is not None
        new = self.rows.length if self.rows.index is None else self.rows.index.shape[1]
        columns, valid = keys.columns, keys.valid
        if self.padding is not None:
            padding = self.padding.bool().gather(1, columns)
            valid = padding if valid is None else padding & valid
        cached = columns.shape[1] - new
        if window is not None and self._is_sliding(layer) and cached > window - 1:
            columns = columns[:, cached - window + 1:]
            valid = None if valid is None else valid[:, cached - window + 1:]
        binds = window is not None and self.past_length + self.rows.length > window
        if new == 1 and valid is None and not binds:
            return None
        queries = columns[:, -new:]
        allowed = causal(queries, columns, window)
        bidirectional = self.backbone.bidirectional and self.tokens.has_images
        if bidirectional and own is not None and own.dim() == 4:
            # the model's own rule among the new rows: images may see themselves both ways
            block = self.rows.take_mask(own[..., -self.rows.length :])
            assert block is not None
            if block.dtype != torch.bool:
                block = block > torch.finfo(block.dtype).min / 2
            over_past = allowed[..., :-new].expand(-1, block.shape[1], -1, -1).to(block.device)
            allowed = torch.cat([over_past, block], dim=-1)
        if valid is not None:
            allowed = forbid_keys(allowed, valid)
        return render(allowed, valid, self.backbone.attention, dtype)

    def _is_sliding(self, layer: int) -> bool:
        layers = self.cache.layers
        return layer < len(layers) and getattr(layers[layer], "is_sliding", False)

    # -- the generation's state ----------------------------------------------------------------

    def _segment(self, stage: int) -> Segment | None:
        """The columns that the layers under ``stage`` hold after this forward."""
        before = self.past.segments[stage] if self.past is not None else None
        if before is None and self.rows.index is None:
            return None
        batch, device = self.tokens.image.shape[0], self.tokens.image.device
        if before is None:
            empty = torch.zeros(batch, 0, dtype=torch.long, device=device)
            before = Segment(empty, None).extended(0, self.past_length)
        if self.rows.index is None:
            return before.extended(self.past_length, self.rows.length)
        return before.joined(Segment(self.rows.index + self.past_length, self.rows.real))

    def _leave_state(self) -> None:
        length = self.past_length + self.rows.length
        plan = self.past.plan if self.past is not None else None
        if self.tokens.has_images:
            plan = self.plan().after(plan, self.past_length)
        state = GenerationState(
            owner=self.owner,
            length=length,
            segments=self.segments,
            contexts=self.contexts,
            sees_image=self.sees_image,
            shift=None if self.repacking is None else self.repacking.shift,
            plan=plan,
        )
        setattr(self.cache, ATTRIBUTE, state)
        if self.rows.index is not None:
            for layer in self.cache.layers[self.schedule.layers[0] :]:
                report_original_length(layer, length)
