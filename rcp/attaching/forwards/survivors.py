"""Which visual tokens are left after each stage: bookkeeping in plain tensors."""

import torch
from torch import Tensor

from rcp.attaching.forwards.slots import Slots
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.schedule import Schedule
from rcp.choosing.tokens import TokenMap


class Survivors:
    """The visual tokens of one forward, stage by stage. All its fields are changed here alone.

    ``slots``: the visual tokens still carried, from which a stage chooses. ``alive`` (B, N) bool
    is over all slots a sample began with, whatever ``slots`` has become. ``stages_alive``: after
    each stage so far, (B, T) bool, the columns that are neither padding nor dropped. ``counts``
    host integers by stage and sample: what the schedule keeps, or what :meth:`counted` has found.
    ``merges``: by stage, weights (B, K, N) of what was folded into the kept tokens.
    """

    def __init__(self, tokens: TokenMap, schedule: Schedule) -> None:
        self.tokens = tokens
        self.schedule = schedule
        self.slots = Slots.of(tokens)
        self.alive = tokens.visual_valid
        self.stages_alive: list[Tensor] = []
        self.counts = [
            [schedule.count(stage, n) for n in tokens.visual_counts]
            for stage in range(len(schedule.layers))
        ]
        self.merges: dict[int, Tensor] = {}

    @property
    def columns(self) -> Tensor:
        """(B, T) bool: columns that are neither padding nor dropped so far."""
        return self.stages_alive[-1] if self.stages_alive else self.tokens.valid

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

    def drop(self, stage: int, keep: Tensor, weights: Tensor | None) -> Tensor:
        """Note that ``stage`` leaves only ``keep`` (B, n) bool of ``slots``; returns what goes.

        ``weights`` (B, K, n) is what was folded into the K kept ones. ``slots`` stays as it is
        until :meth:`mask` or :meth:`compact`.
        """
        if weights is not None:
            rank = self.slots.rank[:, None].expand_as(weights)
            over_all = weights.new_zeros(*weights.shape[:2], self.alive.shape[1])
            self.merges[stage] = over_all.scatter(2, rank, weights)
        gone = self.slots.alive & ~keep
        self.alive = self.over_all(keep & self.slots.alive)
        self.stages_alive.append(self.columns_with(self.alive))
        return gone

    def mask(self, keep: Tensor) -> None:
        """Go on with the same slots, those outside ``keep`` (B, n) bool dead."""
        self.slots = self.slots.masked(keep)

    def compact(self, keep: Tensor, width: int) -> None:
        """Go on with the slots in ``keep`` (B, n) bool alone, at most ``width`` a sample."""
        self.slots = self.slots.compacted(keep, width)

    def over_all(self, values: Tensor) -> Tensor:
        """``values`` (B, n) of ``slots`` over all slots there were: (B, N), zero elsewhere."""
        zeros = torch.zeros(self.alive.shape, dtype=values.dtype, device=self.alive.device)
        return zeros.scatter(1, self.slots.rank, values)

    def columns_with(self, kept: Tensor) -> Tensor:
        """(B, T) bool: valid text, and of the images the columns of the slots ``kept`` (B, N)."""
        tokens = self.tokens
        image = torch.zeros_like(tokens.image).scatter(1, tokens.visual_columns, kept)
        return tokens.valid & (~tokens.image | image)

    def before(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive when ``stage`` begins, as far as the host knows."""
        return self.counts[stage - 1] if stage else list(self.tokens.visual_counts)

    def counted(self, stage: int) -> list[int]:
        """Visual tokens of each sample alive after ``stage``: waits for the device to tell."""
        self.counts[stage] = self.alive.sum(1).tolist()
        return self.counts[stage]

    def plan(self) -> KeepPlan:
        """What was decided so far."""
        stages, valid = self.stages_alive, self.tokens.valid
        return KeepPlan(
            layers=self.schedule.layers[: len(stages)],
            alive=torch.stack(stages) if stages else valid[None][:0],
            visual=self.tokens.image,
            merges=dict(self.merges),
        )
