"""The inference forward: dropped rows are really gone, and so are their keys in the cache."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.cache_names import cache_in
from rcp.attaching.forwards.columns import Columns
from rcp.attaching.forwards.forward import Arguments, Forward, Setup
from rcp.attaching.forwards.survivors import Survivors
from rcp.attaching.generation_state import (
    ATTRIBUTE,
    GenerationState,
    Segment,
    has_fixed_length,
    report_original_length,
)
from rcp.attaching.masks import causal, forbid_keys, gather_mask, render
from rcp.attaching.trace import Trace
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.positions import Positions, take_rows
from rcp.choosing.schedule import Schedule
from rcp.choosing.tokens import TokenMap


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
        budgets: Sequence[Schedule] = (),
    ) -> None:
        super().__init__(setup, tokens, trace, budgets)
        self.owner = id(setup.plugin)
        self.past = past
        self.past_length = past.length if past is not None else 0
        self.padding = padding
        self.padded = tokens.padded or (past is not None and past.padded)
        self.segments: list[Segment | None] = list(past.segments) if past is not None else []
        self.segments += [None] * (len(self.schedule.layers) - len(self.segments))
        if past is not None:
            self.repairing.go_on(past.contexts, past.sees_image)
        self.cache: Any = None
        self.masks: dict[tuple[int, int, int | None], tuple[Any, Tensor | None]] = {}

    # -- hooks ---------------------------------------------------------------------------------

    def enter(self, arguments: Arguments) -> Arguments:
        shift = None if self.past is None else self.past.shift
        return self.inputs.take_over(super().enter(arguments), self.past_length, shift)

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        self.cache = cache_in(arguments)
        if layer in self.schedule.layers:
            stage = self.schedule.layers.index(layer)
            hidden = self._begin_stage(stage, layer, hidden, arguments)
        self.look_back(layer, hidden, arguments)
        under = self.schedule.stage_over(layer)
        if under is None or (self.inputs.rows.index is None and self.segments[under] is None):
            return hidden, arguments
        arguments = dict(arguments)
        arguments["attention_mask"] = self._mask(under, layer, arguments, hidden.dtype)
        # flash attention takes gaps in position ids for document borders; the rotary embedding,
        # their only other use, is handed over ready-made
        arguments["position_ids"] = None
        arguments["position_embeddings"] = self.inputs.rope(arguments)
        return hidden, arguments

    def finish(self, hidden: Tensor, cache: Any) -> Tensor:
        """Back to the original length, so that logits and labels still mean the same columns."""
        if self.trace is not None:
            self.trace.plan = self.survivors.plan()
        if cache is not None:
            self._leave_state(cache)
        return self.inputs.rows.scattered(hidden)

    # -- pruning -------------------------------------------------------------------------------

    def _begin_stage(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        if self.tokens.has_images:
            hidden = self._prune(stage, layer, hidden, arguments)
        self.segments[stage] = self._segment(stage)
        return hidden

    def _prune(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        place = self.place(layer, hidden, arguments)
        choice = self.decide(stage, place)
        hidden = choice.folded(hidden, place)
        survivors, rows = self.survivors, self.inputs.rows
        before = survivors.before(stage)
        known = self.setup.counts_are_known(stage)
        counts = survivors.counts[stage] if known else survivors.counted(stage)
        run = place.visual.run
        if counts == before:
            pass  # nothing went: bit for bit the model's own path
        elif known and run is not None and survivors.every_column and len(set(counts)) == 1:
            left, taken = rows.shrink(run, choice.keep, counts[0])
            self._leave(left)
            columns = left.current[:, run.start : run.start + counts[0]]
            survivors.go_on(survivors.slots.shrunk(columns))
            hidden = take_rows(hidden, taken)
        else:
            survivors.go_on(survivors.slots.compacted(choice.keep, max(counts)))
            text = self.tokens.text_counts
            left = Columns.kept(survivors.columns, [t + n for t, n in zip(text, counts)], rows.all)
            self._leave(left)
            hidden = rows.locate(Positions(left.current)).take(hidden)
        if self.trace is not None:
            self.trace.kept.append(survivors.alive.float())
        return hidden

    def _leave(self, rows: Columns) -> None:
        self.inputs.leave(rows)
        self.masks.clear()

    # -- masks ---------------------------------------------------------------------------------

    def _mask(
        self, stage: int, layer: int, arguments: Arguments, dtype: torch.dtype
    ) -> Tensor | None:
        own, rows = arguments["attention_mask"], self.inputs.rows
        window = self.backbone.windows[layer]
        key = id(own), stage, window
        if key not in self.masks:
            if self.past is None:
                assert rows.index is not None  # or nothing was dropped yet
                mask = gather_mask(own, rows.index, rows.real, self.backbone.attention)
            else:
                mask = self._mask_over_past(stage, layer, own, window, dtype)
            self.masks[key] = own, mask  # `own` held, or its id could be given to another
        return self.masks[key][1]

    def _mask_over_past(
        self, stage: int, layer: int, own: Tensor | None, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        keys, rows = self.segments[stage], self.inputs.rows
        assert keys is not None
        new = rows.count
        binds = window is not None and self.past_length + rows.length > window
        if new == 1 and own is None and keys.valid is None and not binds:
            return None  # the model itself has found no padding
        columns, valid = keys.columns, keys.valid
        if self.padding is not None:
            padding = self.padding.bool().gather(1, columns)
            valid = padding if valid is None else padding & valid
        cached = columns.shape[1] - new
        if window is not None and self._is_sliding(layer) and cached > window - 1:
            columns = columns[:, cached - window + 1:]
            valid = None if valid is None else valid[:, cached - window + 1:]
        if new == 1 and valid is None and not binds:
            return None
        queries = columns[:, -new:]
        allowed = causal(queries, columns, window)
        bidirectional = self.backbone.bidirectional and self.tokens.has_images
        if bidirectional and own is not None and own.dim() == 4:
            # the model's own rule among the new rows: images may see themselves both ways
            block = rows.take_mask(own[..., -rows.length :])
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
        rows = self.inputs.rows
        before = self.past.segments[stage] if self.past is not None else None
        if rows.index is None:
            return None if before is None else before.extended(self.past_length, rows.length)
        if self.past_length == 0:
            return Segment(rows.index, rows.real)
        if before is None:
            before = Segment.of_all(rows.index, self.past_length)
        return before.joined(Segment(rows.index + self.past_length, rows.real))

    def _leave_state(self, cache: Any) -> None:
        rows = self.inputs.rows
        length = self.past_length + rows.length
        plan = self.past.plan if self.past is not None else None
        if self.tokens.has_images:
            plan = partial(_plan_behind, plan, self.survivors, self.past_length)
        repacking = self.inputs.repacking
        state = GenerationState(
            owner=self.owner,
            samples=len(rows.all),
            length=length,
            segments=self.segments,
            contexts=self.repairing.contexts,
            sees_image=self.repairing.sees_image,
            shift=None if repacking is None else repacking.shift,
            plan=plan,
            padded=self.padded,
        )
        setattr(cache, ATTRIBUTE, state)
        if rows.index is not None and not has_fixed_length(cache):
            for layer in cache.layers[self.schedule.layers[0] :]:
                report_original_length(layer, length, self.setup.before_decoder)


def _plan_behind(
    earlier: Callable[[], KeepPlan] | None, survivors: Survivors, start: int
) -> KeepPlan:
    return survivors.plan().after(None if earlier is None else earlier(), start)
