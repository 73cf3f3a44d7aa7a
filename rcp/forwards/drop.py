"""The inference forward: dropped rows are really gone, and so are their keys in the cache."""

from typing import Any

import torch
from torch import Tensor

from rcp.forwards.base import Arguments, Forward, Setup
from rcp.forwards.stage import Place
from rcp.forwards.trace import Trace
from rcp.masking import (
    causal,
    forbid_keys,
    gather_mask,
    render,
    take_mask_columns,
    take_mask_rows,
    take_rows,
)
from rcp.state import ATTRIBUTE, GenerationState, Segment, report_original_length
from rcp.tokens import TokenMap, columns_of


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
        self.length = tokens.image.shape[1]
        self.index: Tensor | None = None  # (B, K) columns of this forward that are left
        self.filler_free: Tensor | None = None  # (B, K) bool, None where no filler is among them
        self.segments: list[Segment | None] = list(past.segments) if past is not None else []
        self.segments += [None] * (len(self.schedule.layers) - len(self.segments))
        if past is not None:
            self.contexts = dict(past.contexts)
            self.has_images = self.has_images | past.has_images
        self.cache: Any = None
        self.masks: dict[tuple[int, int, int | None], tuple[Any, Tensor | None]] = {}

    # -- hooks ---------------------------------------------------------------------------------

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        self.cache = arguments.get("past_key_values")
        stage = self.stage_at(layer)
        if stage is not None:
            hidden = self._enter(stage, layer, hidden, arguments)
        under = self._stage_over(layer)
        if under is None or (self.index is None and self.segments[under] is None):
            return hidden, arguments
        arguments = dict(arguments)
        arguments["attention_mask"] = self._mask(under, layer, arguments, hidden.dtype)
        # flash attention takes gaps in position ids for document borders; the rotary embedding,
        # their only other use, is handed over ready-made
        arguments["position_ids"] = None
        if self.index is not None:
            cos, sin = arguments["position_embeddings"]
            arguments["position_embeddings"] = take_rows(cos, self.index), take_rows(
                sin, self.index
            )
        return hidden, arguments

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        rows = self._locate(self.tokens.answer_columns)
        hidden = self.repair_rows(layer, hidden, rows, self.tokens.answer_valid)
        if self.index is None:
            self.record_answers(layer, hidden)
        else:
            self.record_answers(layer, self._scattered(hidden))
        return hidden

    def finish(self, hidden: Tensor) -> Tensor:
        """Back to the original length, so that logits and labels still mean the same columns."""
        if self.trace is not None:
            self.trace.plan = self.plan()
        if self.cache is not None:
            self._leave_state()
        return hidden if self.index is None else self._scattered(hidden)

    # -- pruning -------------------------------------------------------------------------------

    def _enter(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        if self.tokens.has_images:
            hidden = self._prune(stage, layer, hidden, arguments)
        self.segments[stage] = self._segment(stage)
        return hidden

    def _prune(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        choice = self.decide(stage, self._place(layer, hidden, arguments))
        counts = self._kept_counts(stage)
        before = self.counts_before(stage)
        self.slots = self.slots.compacted(choice.keep & self.slots.alive, max(counts))
        if self.trace is not None:
            self.trace.kept.append(self.alive.float())
        if counts == before:
            return hidden  # nothing went: bit for bit the model's own path
        rest = [v - n for v, n in zip(self.tokens.valid_counts, self.tokens.visual_counts)]
        left = [n + k for n, k in zip(rest, counts)]
        index, real = columns_of(self.stages_alive[-1], max(left))
        order = index.argsort(1)
        index, real = index.gather(1, order), real.gather(1, order)
        hidden = take_rows(hidden, self._locate(index))
        self.index = index
        self.filler_free = real if min(left) < max(left) else None
        self.masks.clear()
        return hidden

    def counts_before(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive when ``stage`` begins."""
        return self.counts[stage - 1] if stage else list(self.tokens.visual_counts)

    def _kept_counts(self, stage: int) -> list[int]:
        """What the stage left. Known beforehand in top-k mode; otherwise the device must tell."""
        if self.plugin.spec.selection != "top_k" or self.replayed is not None:
            self.counts[stage] = self.alive.sum(1).tolist()
        return self.counts[stage]

    def _place(self, layer: int, hidden: Tensor, arguments: Arguments) -> Place:
        cos, sin = arguments["position_embeddings"]
        mask = arguments["attention_mask"]
        if mask is not None and mask.dim() == 2:
            mask = None  # flash attention's padding mask; `alive` says the same
        columns = torch.arange(self.length, device=hidden.device).expand(len(hidden), -1)
        if mask is not None:
            mask = mask[..., -self.length:]  # keys of this forward; older images stay out of it
        alive = self.tokens.valid
        if self.index is not None:
            columns, alive = self.index, self.stages_alive[-1].gather(1, self.index)
            cos, sin = take_rows(cos, self.index), take_rows(sin, self.index)
            if mask is not None:
                mask = take_mask_columns(take_mask_rows(mask, self.index), self.index)
        return Place(
            layer=layer,
            hidden=hidden,
            rope=(cos, sin),
            mask=mask,
            columns=columns,
            alive=alive,
            visual=self._locate(self.slots.columns),
            question=self._locate(self.tokens.question_columns),
        )

    def _locate(self, columns: Tensor) -> Tensor:
        """Where the original ``columns`` (B, X) are among the rows left; 0 where they are gone."""
        if self.index is None:
            return columns
        rows = torch.arange(self.index.shape[1], device=columns.device).expand_as(self.index)
        where = torch.zeros(len(rows), self.length, dtype=torch.long, device=columns.device)
        return where.scatter(1, self.index, rows).gather(1, columns)

    def _scattered(self, hidden: Tensor) -> Tensor:
        assert self.index is not None
        if self.filler_free is not None:
            hidden = torch.where(self.filler_free[..., None], hidden, 0)
        full = hidden.new_zeros(len(hidden), self.length, hidden.shape[-1])
        return full.scatter(1, self.index[..., None].expand_as(hidden), hidden)

    # -- masks ---------------------------------------------------------------------------------

    def _stage_over(self, layer: int) -> int | None:
        """The last stage at or before ``layer``."""
        stages = [stage for stage, at in enumerate(self.schedule.layers) if at <= layer]
        return stages[-1] if stages else None

    def _mask(
        self, stage: int, layer: int, arguments: Arguments, dtype: torch.dtype
    ) -> Tensor | None:
        own = arguments["attention_mask"]
        window = self.backbone.window(layer)
        key = id(own), stage, window
        if key not in self.masks:
            if self.past is None:
                mask = gather_mask(own, self.index, self.filler_free, self.backbone.attention)
            else:
                mask = self._mask_over_past(stage, layer, own, window, dtype)
            self.masks[key] = own, mask  # `own` held, or its id could be given to another
        return self.masks[key][1]

    def _mask_over_past(
        self, stage: int, layer: int, own: Tensor | None, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        keys = self.segments[stage]
        assert keys is not None
        new = keys.columns.shape[1] if self.past is None else self._new_rows()
        columns, valid = keys.columns, keys.valid
        if self.padding is not None:
            padding = self.padding.bool().gather(1, columns)
            valid = padding if valid is None else padding & valid
        cached = columns.shape[1] - new
        if window is not None and self._is_sliding(layer) and cached > window - 1:
            columns = columns[:, cached - window + 1:]
            valid = None if valid is None else valid[:, cached - window + 1:]
        binds = window is not None and self.past_length + self.length > window
        if new == 1 and valid is None and not binds:
            return None
        queries = columns[:, -new:]
        allowed = causal(queries, columns, window)
        if own is not None and own.dim() == 4 and self.tokens.has_images:
            # the model's own rule among the new rows: images may see themselves both ways
            block = own[..., -self.length:]
            if block.dtype != torch.bool:
                block = block > torch.finfo(block.dtype).min / 2
            if self.index is not None:
                block = take_mask_columns(take_mask_rows(block, self.index), self.index)
            allowed = allowed.expand(-1, block.shape[1], -1, -1).clone()
            allowed[..., -new:] = block
        if valid is not None:
            allowed = forbid_keys(allowed, valid)
        return render(allowed, valid, self.backbone.attention, dtype)

    def _new_rows(self) -> int:
        return self.length if self.index is None else self.index.shape[1]

    def _is_sliding(self, layer: int) -> bool:
        layers = self.cache.layers
        return layer < len(layers) and getattr(layers[layer], "is_sliding", False)

    # -- the generation's state ----------------------------------------------------------------

    def _segment(self, stage: int) -> Segment | None:
        """The columns that the layers under ``stage`` hold after this forward."""
        before = self.past.segments[stage] if self.past is not None else None
        if before is None and self.index is None:
            return None
        batch, device = self.tokens.image.shape[0], self.tokens.image.device
        if before is None:
            empty = torch.zeros(batch, 0, dtype=torch.long, device=device)
            before = Segment(empty, None).extended(0, self.past_length)
        if self.index is None:
            return before.extended(self.past_length, self.length)
        return before.joined(Segment(self.index + self.past_length, self.filler_free))

    def _leave_state(self) -> None:
        length = self.past_length + self.length
        plan = self.past.plan if self.past is not None else None
        state = GenerationState(
            owner=self.owner,
            length=length,
            segments=self.segments,
            contexts=self.contexts,
            has_images=self.has_images,
            plan=self.plan() if self.tokens.has_images else plan,
        )
        setattr(self.cache, ATTRIBUTE, state)
        if self.schedule.layers[:1] == (0,) and self.segments[0] is not None:
            report_original_length(self.cache, length)
