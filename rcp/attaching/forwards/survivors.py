"""Which visual tokens are left after each stage: bookkeeping in plain tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcp.attaching.forwards.slots import Slots
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.schedule import Schedule, by_row
from rcp.choosing.tokens import TokenMap


class Survivors:
    """The visual tokens of one forward, stage by stage. All its fields are changed here alone.

    ``slots``: the visual tokens still carried, from which a stage chooses. ``counts``: host
    integers by stage and sample: what the schedule keeps, or what :meth:`counted` has found.
    ``merges``: by stage, weights (B, K, N) of what was folded into the kept tokens. What is alive
    among all slots a sample began with is worked out when it is asked for: mostly it is not.
    ``budgets``: schedules of single rows in place of ``schedule``, with stages at the same layers.
    """

    def __init__(
        self, tokens: TokenMap, schedule: Schedule, budgets: Sequence[Schedule] = ()
    ) -> None:
        self.tokens = tokens
        self.schedule = schedule
        self.slots = Slots.of(tokens)
        visual = tokens.host.visual_counts
        rows = by_row(budgets or [schedule], len(visual))
        self.counts = [
            [own.count(stage, n) for own, n in zip(rows, visual)]
            for stage in range(len(schedule.layers))
        ]
        self.merges: dict[int, Tensor] = {}
        self._decided: list[tuple[Slots, Tensor]] = []
        self._certain = True
        self._alive: dict[int, Tensor] = {}

    @property
    def alive(self) -> Tensor:
        """(B, N) bool over all slots a sample began with, whatever ``slots`` has become."""
        return self._after(len(self._decided))

    @property
    def columns(self) -> Tensor:
        """(B, T) bool: columns that are neither padding nor dropped so far."""
        return self.tokens.columns_with(self.alive) if self._decided else self.tokens.valid

    @property
    def every_column(self) -> bool:
        """Whether the host knows that each column is alive which belongs to one of ``slots`` or
        to no image."""
        return self.slots.whole and not self.tokens.padded

    def planned(self, plan: KeepPlan, stage: int) -> tuple[Tensor, Tensor | None]:
        """Of ``slots`` (B, n): which ``plan`` keeps at ``stage``, (B, n) bool, and its merge
        weights (B, K, n), or None. A plan without this stage, of text alone, keeps all."""
        keep, weights = self.slots.alive, plan.merges.get(stage)
        if stage < len(plan.layers):
            planned = plan.alive[stage].to(keep.device)
            keep = planned.gather(1, self.slots.columns) & keep
        if weights is not None:
            weights = weights.to(keep.device)
            rank = self.slots.rank[:, None].expand(-1, weights.shape[1], -1)
            weights = weights.gather(2, rank)
        return keep, weights

    def drop(
        self, stage: int, keep: Tensor, weights: Tensor | None, *, certain: bool = True
    ) -> None:
        """Note that ``stage`` leaves only ``keep`` (B, n) bool of ``slots``.

        ``weights`` (B, K, n) is what was folded into the K kept ones; ``certain`` says that
        ``counts`` are what it keeps. ``slots`` stays as it is until :meth:`go_on`.
        """
        self._certain = certain
        if weights is not None:
            rank = self.slots.rank[:, None].expand_as(weights)
            over_all = weights.new_zeros(*weights.shape[:2], self.tokens.visual_valid.shape[1])
            self.merges[stage] = over_all.scatter(2, rank, weights)
        if not self.slots.whole:
            keep = keep & self.slots.alive
        self._decided.append((self.slots, keep))

    def gone(self) -> Tensor:
        """Of the slots there were before it, which the last stage has dropped: (B, n) bool."""
        slots, keep = self._decided[-1]
        return ~keep if slots.whole else slots.alive & ~keep

    @property
    def gone_each(self) -> int | None:
        """How many of each sample are gone by now, where the host knows that all have lost as
        many."""
        if not self._certain:
            return None
        left = self.counts[len(self._decided) - 1]
        lost = {n - kept for n, kept in zip(self.tokens.host.visual_counts, left)}
        return lost.pop() if len(lost) == 1 else None

    def go_on(self, slots: Slots) -> None:
        """Carry only these of the ``slots`` from here on."""
        self.slots = slots

    def before(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive when ``stage`` begins, as far as the host knows."""
        return self.counts[stage - 1] if stage else list(self.tokens.host.visual_counts)

    def counted(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive after ``stage``: waits for the device to tell."""
        self.counts[stage] = self._decided[stage][1].sum(1).tolist()
        return self.counts[stage]

    def plan(self) -> KeepPlan:
        """What was decided so far."""
        valid, stages = self.tokens.valid, len(self._decided)
        alive = [self.tokens.columns_with(self._after(stage)) for stage in range(1, stages + 1)]
        return KeepPlan(
            layers=self.schedule.layers[:stages],
            alive=torch.stack(alive) if alive else valid[None][:0],
            visual=self.tokens.image,
            merges=dict(self.merges),
        )

    def _after(self, stages: int) -> Tensor:
        """(B, N) bool: what is alive after so many stages."""
        if not stages:
            return self.tokens.visual_valid
        if stages not in self._alive:
            slots, keep = self._decided[stages - 1]
            self._alive[stages] = slots.over_all(keep)
        return self._alive[stages]
