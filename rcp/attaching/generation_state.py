"""What a running generation must remember: it lives on that generation's cache and dies with it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rcp.choosing.keep_plan import KeepPlan
from rcp.errors import UserError

ATTRIBUTE = "rcp_state"


@dataclass
class Segment:
    """Original columns cached by the layers under one stage: ``listed`` (B, K) long, fillers
    first, and behind them the run ``since``, which a generation appends to, one by one.

    ``listed_valid`` (B, K) bool is False at filler columns, or None where there are none.
    """

    listed: Tensor
    listed_valid: Tensor | None
    since: range = range(0)

    @classmethod
    def of_all(cls, like: Tensor, count: int) -> "Segment":
        """The first ``count`` columns; ``like`` (B, ...) long gives number and device."""
        return cls(like[:, :0], None, range(count))

    @property
    def columns(self) -> Tensor:
        """(B, K) long: all of them."""
        if not self.since:
            return self.listed
        run = torch.arange(self.since.start, self.since.stop, device=self.listed.device)
        return torch.cat([self.listed, run.expand(len(self.listed), -1)], dim=1)

    @property
    def valid(self) -> Tensor | None:
        """(B, K) bool: which are no fillers, or None where there are none."""
        if self.listed_valid is None or not self.since:
            return self.listed_valid
        return functional.pad(self.listed_valid, (0, len(self.since)), value=True)

    def extended(self, start: int, count: int) -> "Segment":
        """With the ``count`` columns from ``start`` on appended, all kept."""
        new = range(start, start + count)
        if not self.since:
            return replace(self, since=new)
        if self.since.stop == start:
            return replace(self, since=range(self.since.start, new.stop))
        return Segment(self.columns, self.valid, new)

    def joined(self, new: "Segment") -> "Segment":
        """With the columns of ``new`` appended."""
        valid, added = self.valid, new.valid
        if valid is not None or added is not None:
            valid = torch.cat([_written_out(self, valid), _written_out(new, added)], dim=1)
        return Segment(torch.cat([self.columns, new.columns], dim=1), valid)

    def cropped(self, count: int) -> "Segment":
        """Without the last ``count`` columns, which all hold kept text."""
        if count <= len(self.since):
            return replace(self, since=range(self.since.start, self.since.stop - count))
        valid = self.valid
        return Segment(self.columns[:, :-count], None if valid is None else valid[:, :-count])

    def spread(self, rows: int) -> "Segment":
        """The one sample's columns for each of ``rows`` samples."""
        valid = None if self.listed_valid is None else self.listed_valid.expand(rows, -1)
        return Segment(self.listed.expand(rows, -1), valid, self.since)


def _written_out(segment: Segment, valid: Tensor | None) -> Tensor:
    return torch.ones_like(segment.columns, dtype=torch.bool) if valid is None else valid


@dataclass
class GenerationState:
    """``samples`` B; ``length``: original columns seen so far. ``segments``: one a stage, None
    where nothing was dropped yet. ``contexts``: repair context by stage, (B, C). ``sees_image``
    (B, 1) bool: the samples that have had an image so far, None where all have. ``shift`` (B, 1):
    how far closing gaps has moved the positions of what follows, or None. ``plan`` makes the keep
    plan when it is asked for. ``padded``: whether any column so far may be padding. ``owner``
    tells plug-ins apart; an id, so that copying a cache does not copy weights."""

    owner: int
    samples: int
    length: int
    segments: list[Segment | None]
    contexts: dict[int, Tensor]
    sees_image: Tensor | None
    shift: Tensor | None
    plan: Callable[[], KeepPlan] | None
    padded: bool

    def cropped(self, length: int) -> "GenerationState":
        """As the first ``length`` columns left it: assisted decoding takes back candidates."""
        if length == self.length:
            return self
        gone = self.length - length
        segments = [None if segment is None else segment.cropped(gone) for segment in self.segments]
        return replace(self, length=length, segments=segments)

    def spread(self, rows: int) -> "GenerationState":
        """For ``rows`` samples: a prompt run once may be continued many times.

        Raises ``UserError`` for any other number than there are, or one.
        """
        if rows == self.samples:
            return self
        if self.samples > 1:
            raise UserError(
                f"This cache was filled with {self.samples} samples, but the forward has {rows}, "
                f"and which of them they continue is unknown. Run the prompts of these samples "
                f"alone, or repeat the cache of a single one."
            )
        segments = [None if segment is None else segment.spread(rows) for segment in self.segments]
        contexts = {stage: context.expand(rows, -1) for stage, context in self.contexts.items()}
        return replace(
            self,
            samples=rows,
            segments=segments,
            contexts=contexts,
            sees_image=None if self.sees_image is None else self.sees_image.expand(rows, -1),
            shift=None if self.shift is None else self.shift.expand(rows, -1),
            plan=None if self.plan is None else functools.partial(_spread_plan, self.plan, rows),
        )


def _spread_plan(plan: Callable[[], KeepPlan], rows: int) -> KeepPlan:
    return plan().spread(rows)


def has_fixed_length(cache: Any) -> bool:
    """Whether ``cache`` was allocated for a length, and counts what it holds on the device."""
    return getattr(cache, "is_compileable", False)


def state_of(cache: Any, owner: int, rows: int, tokens: int) -> GenerationState | None:
    """The state on ``cache`` for a forward of ``rows`` samples of ``tokens``; None for an empty
    cache.

    Refuses a cache that was filled without this plug-in, or with other samples.
    """
    state = getattr(cache, ATTRIBUTE, None)
    fixed = has_fixed_length(cache)
    if fixed and tokens == 1 and state is not None and state.owner == owner:
        return state.spread(rows)  # a decode step: to ask for the length would wait for the device
    # assisted decoding makes some releases count in a tensor, and change it in place later on
    length = 0 if cache is None else int(cache.get_seq_length())
    if length == 0:
        return None
    if state is None or state.owner != owner:
        raise UserError(
            f"This cache holds {length} tokens that were not run under this "
            f"plug-in, so it is unknown which of them were dropped. Start with an empty cache "
            f"while the plug-in is attached."
        )
    return (state if fixed else state.cropped(length)).spread(rows)


def plan_of(cache: Any) -> KeepPlan:
    """The keep plan of the generation that filled ``cache``.

    Raises ``UserError`` if no pruned prefill has run on it.
    """
    state = getattr(cache, ATTRIBUTE, None)
    if state is None or state.plan is None:
        raise UserError(
            "This cache carries no keep plan: no image has been pruned on it. Run a prefill with "
            'images while a plug-in is attached in "drop" mode.'
        )
    return state.plan()


def report_original_length(layer: Any, length: int, masks_fit: bool) -> None:
    """Let the pruned cache ``layer`` report ``length`` original columns.

    Models and ``generate`` compute positions, slices and mask sizes from the lengths of some
    layers; one that holds no keys has none. With ``masks_fit`` all layers hold the same rows, and a
    mask that the model makes is as wide as these, and as far behind as columns are gone. The
    correction is a subclass and sits on the layer, so that it survives a deep copy.
    """
    if not hasattr(layer, "get_seq_length"):
        return
    if not hasattr(layer, "removed_columns"):
        layer.__class__ = _pruned(type(layer))  # type: ignore[arg-type]
        layer.removed_columns = 0
    layer.masks_fit = masks_fit
    layer.removed_columns += length - layer.get_seq_length()


@functools.cache
def _pruned(kind: Any) -> type:
    class PrunedLayer(kind):
        removed_columns: int
        masks_fit: bool

        def __reduce__(self) -> tuple[Any, ...]:
            return _empty, (kind,), vars(self)

        def get_seq_length(self) -> int:
            cached = super().get_seq_length()
            return cached + self.removed_columns if cached else 0

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            if self.masks_fit and self.is_sliding:
                length, offset = super().get_mask_sizes(query_length)
                return length, offset + self.removed_columns
            if self.masks_fit:
                return super().get_seq_length() + query_length, self.removed_columns
            if not self.is_sliding:
                return super().get_mask_sizes(query_length)
            offset = max(self.get_seq_length() - self.sliding_window + 1, 0)
            return self.get_seq_length() - offset + query_length, offset

    return PrunedLayer


def _empty(kind: Any) -> Any:
    """A pruned cache layer without contents, for copies and unpickling."""
    return object.__new__(_pruned(kind))
