"""What all modes share: stages, contexts and repair. One instance lives for one forward."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.encoder_watch import Facts
from rcp.attaching.forwards.entry import Entry
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.repacking import Repacking
from rcp.attaching.forwards.rows import Rows
from rcp.attaching.forwards.slots import Slots
from rcp.attaching.forwards.stage import Choice, Seen, choose, look
from rcp.attaching.forwards.transitions import transition
from rcp.attaching.trace import Trace
from rcp.backbones import Backbone
from rcp.backbones.base import Rope
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.merging import merge_rows
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.tokens import TokenMap, columns_of, take_rows
from rcp.choosing.view import View
from rcp.plugin import Plugin
from rcp.pruners import Pruner
from rcp.repair.base import Dropping

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What an attachment fixes for all its forwards.

    ``facts``: what its methods read of images and question as they entered the decoder.
    """

    backbone: Backbone
    plugin: Plugin
    plan: KeepPlan | None
    relaxation: Relaxation | None
    facts: frozenset[str]


class Forward:
    """One forward of the model. The hooks call :meth:`enter`, :meth:`before_layer`,
    :meth:`after_layer` and :meth:`finish` in this order; a mode overrides what it changes."""

    def __init__(self, setup: Setup, tokens: TokenMap, trace: Trace | None) -> None:
        self.backbone = setup.backbone
        self.plugin = setup.plugin
        self.replayed = setup.plan
        if setup.plan is not None and tokens.has_images:
            setup.plan.check(tokens.image)
        self.relaxation = setup.relaxation
        self.tokens = tokens
        self.trace = trace
        self.schedule = setup.plugin.schedule
        self.counts = [
            [self.schedule.count(stage, n) for n in tokens.visual_counts]
            for stage in range(len(self.schedule.layers))
        ]
        self.text_counts = [v - n for v, n in zip(tokens.valid_counts, tokens.visual_counts)]
        self.rows = Rows(tokens.image.shape[1])
        self.ropes: dict[int, tuple[Rope, Rope]] = {}  # as handed over, and of the rows left
        self.slots = Slots.of(tokens)
        self.alive = tokens.visual_valid  # over all slots, whatever self.slots has become
        self.contexts: dict[int, Tensor] = {}
        self.additions: list[Tensor] = []  # (B, T, D) each, to add to the first layers' outputs
        self.repaired = tokens.answer_columns, tokens.answer_valid
        if setup.plugin.spec.repair is not None and setup.plugin.spec.repair.rows == "text":
            self.repaired = columns_of(tokens.valid & ~tokens.image, max(self.text_counts))
        self.sees_image = tokens.visual_valid.any(1, keepdim=True)  # (B, 1)
        self.stages_alive: list[Tensor] = []
        self.pruned_sum: Tensor | None = None
        self.seen = Seen()
        self.entry = Entry(setup.backbone, setup.facts)
        self.merges: dict[int, Tensor] = {}
        self.repacking: Repacking | None = None
        if trace is not None:
            trace.restart()
            trace.visual_valid = tokens.visual_valid

    @property
    def wants_guide(self) -> bool:
        """Whether a stage asks what the unpruned model attends to."""
        pruners = [self.plugin.pruner(at) for at in self.schedule.layers]
        asked = any("guide_attention" in pruner.needs for pruner in pruners)
        return asked and self.slots.columns.shape[1] > 0 and self.replayed is None

    def enter(self, arguments: Arguments) -> Arguments:
        """Called with the decoder's keyword arguments; returns what it shall get instead."""
        embeds, positions = arguments.get("inputs_embeds"), arguments.get("position_ids")
        if self.tokens.has_images and embeds is not None:
            places = self.backbone.places(self.tokens.image, embeds, positions)
            if places is not None:
                self.tokens = self.tokens.placed(places.index, places.grid)
                self.slots = Slots.of(self.tokens)
        if self.tokens.has_images:
            self.entry.enter(self.tokens, embeds)
        return arguments

    def encoded(self, facts: Facts) -> None:
        """Called with what was taken while the images of this forward were encoded."""
        self.entry.encoded = facts

    def take_over(
        self, arguments: Arguments, start: int = 0, shift: Tensor | None = None
    ) -> Arguments:
        """Take over what depends on rows that may be gone: what the decoder would add between
        layers, and under the position policy "repack" the positions, from column ``start`` on and
        moved by ``shift`` (B, 1) already."""
        arguments, self.additions = self.backbone.take_additions(arguments)
        if self.plugin.spec.position_policy == "repack":
            self.repacking = Repacking(self.backbone, shift)
            arguments = self.repacking.enter(arguments, start)
        return arguments

    def rope(self, arguments: Arguments) -> Rope:
        """(cos, sin) of the rows left, given a layer's ``arguments``: gathered once a stage."""
        handed = arguments["position_embeddings"]
        if self.rows.index is None and self.repacking is None:
            return handed
        if id(handed) not in self.ropes:
            own = handed if self.repacking is None else self.repacking.rope(handed)
            # `handed` held, or its id could be given to another
            self.ropes[id(handed)] = handed, self.rows.take_rope(own)
        return self.ropes[id(handed)][1]

    def leave(self, rows: Rows) -> None:
        """Go on with ``rows`` alone."""
        self.rows = rows
        self.ropes.clear()

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """``hidden`` (B, R, D), a layer's output, with what the decoder would have added to it."""
        if layer >= len(self.additions):
            return hidden
        return hidden + self.rows.take(self.additions[layer].to(hidden.device))

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        """Called with the layer's input (B, R, D); returns what the layer shall get instead."""
        return hidden, arguments

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Called with the layer's output (B, R, D); returns what follows shall see."""
        repair = self.plugin.repair
        observed = self.trace is not None and layer in self.trace.answer_layers
        if not observed and (repair is None or layer not in repair.layers):
            return self.add(layer, hidden)
        columns, valid = self.repaired
        hidden = self.repair_rows(layer, hidden, self.rows.locate(columns), valid)
        hidden = self.add(layer, hidden)
        self.record_answers(layer, hidden, self.rows.locate(self.tokens.answer_columns))
        return hidden

    @torch.no_grad()  # a checkpointed layer would be computed again without what is noted here
    def after_block(self, entered: Tensor, left: Tensor) -> None:
        """Called with a block's normed input and its output, (B, rows, D), where a stage asks."""
        if not self.slots.columns.shape[1]:
            return
        columns, device = self.rows.columns(self.tokens.image), self.alive.device
        alive = self.still_alive.gather(1, columns).to(entered.device)
        moved = transition(entered, left, alive).to(device)
        moved = moved.gather(1, self.rows.locate(self.slots.columns)) * self.slots.alive
        before = self.seen.transitions
        total = torch.zeros(self.alive.shape, device=device) if before is None else before
        self.seen.transitions = total.scatter_add(1, self.slots.rank, moved)

    def finish(self, hidden: Tensor) -> Tensor:
        """Called with the decoder's last hidden states, (B, rows, D)."""
        return hidden

    def stage_at(self, layer: int) -> int | None:
        """The stage that prunes at ``layer``, if one does."""
        return self.schedule.layers.index(layer) if layer in self.schedule.layers else None

    @property
    def still_alive(self) -> Tensor:
        """(B, T) bool: columns that are neither padding nor dropped so far."""
        return self.stages_alive[-1] if self.stages_alive else self.tokens.valid

    def place(self, layer: int, hidden: Tensor, arguments: Arguments) -> Place:
        """Where a stage before ``layer`` stands, given the layer's input (B, R, D) and keywords."""
        # own mask and alive keys, not the bias: a score must not see a gradient of older masks
        mask = arguments["attention_mask"]
        if mask is not None and mask.dim() == 2:
            mask = None  # flash attention's padding mask; `alive` says the same
        if mask is not None:
            # keys of this forward only; images of earlier ones stay out of it
            mask = mask[..., -self.rows.length :]
        columns = self.rows.columns(self.tokens.image)
        return Place(
            layer=layer,
            hidden=hidden,
            rope=self.rope(arguments),
            mask=self.rows.take_mask(mask),
            columns=columns,
            alive=self.still_alive.gather(1, columns),
            visual=self.rows.locate(self.slots.columns),
            question=self.rows.locate(self.tokens.question_columns),
        )

    def look_back(self, layer: int, hidden: Tensor, arguments: Arguments) -> None:
        """Keep the input of ``layer`` if a stage at the next one asks for this one's attention."""
        if self.stage_at(layer + 1) is None or not self.slots.columns.shape[1]:
            return
        if "attention_before" in self.plugin.pruner(layer + 1).needs:
            self.seen.before = self.place(layer, hidden, arguments)

    def view(self, pruner: Pruner, place: Place) -> View:
        """What ``pruner`` may see at ``place`` of ``self.slots``, before the stage there."""
        slots = self.slots.to(place.hidden.device)
        question_valid = self.tokens.question_valid.to(place.hidden.device)
        view = look(self.backbone, pruner, place, slots, question_valid, self.seen)
        entered = self.entry.seen(pruner.needs | pruner.uses, slots.rank)
        return replace(view, stage=self.schedule.layers.index(place.layer), **entered)

    def decide(self, stage: int, place: Place) -> Choice:
        """Choose at ``place`` among ``self.slots``, and remember what goes."""
        pruner = self.plugin.pruner(place.layer)
        device = self.backbone.device(place.layer)  # the token map lives on the first one
        place = place.to(device)
        if self.replayed is not None:
            keep = self.slots.alive
            if stage < len(self.replayed.layers):  # a plan of text alone has no stage
                survivors = self.replayed.alive[stage].to(keep.device)
                keep = survivors.gather(1, self.slots.columns) & keep
            choice = Choice(keep, weights=self._replayed_weights(stage))
        else:
            selection = self.plugin.spec.selection
            most = max(self.counts[stage]) if selection == "top_k" else None
            view = replace(self.view(pruner, place), most=most)
            counts = torch.tensor(self.counts[stage], dtype=torch.long, device=device)
            choice = choose(pruner, view, counts, selection, self.relaxation)
            choice = choice.to(self.alive.device)
        if choice.weights is not None:
            self._remember_merge(stage, choice.weights)
        gone = self.slots.alive & ~choice.keep
        survivors = torch.zeros_like(self.alive).scatter(
            1, self.slots.rank, choice.keep & self.slots.alive
        )
        self.alive = survivors
        kept_columns = torch.zeros_like(self.tokens.image).scatter(
            1, self.tokens.visual_columns, survivors
        )
        self.stages_alive.append(self.tokens.valid & (~self.tokens.image | kept_columns))
        if self.plugin.repair is not None:
            self._remember(stage, place, gone)
        if self.repacking is not None and stage == 0:
            self.repacking.close(place.hidden, self.tokens.valid, self.stages_alive[0])
            self.ropes.clear()
        return choice

    def merged(self, hidden: Tensor, place: Place, choice: Choice) -> Tensor:
        """``hidden`` (B, R, D) with what ``choice`` folds into the kept rows of ``place``."""
        if choice.weights is None:
            return hidden
        keep, weights = choice.keep.to(hidden.device), choice.weights.to(hidden.device)
        return merge_rows(hidden, place.visual.to(hidden.device), keep, weights)

    def _remember_merge(self, stage: int, weights: Tensor) -> None:
        """Keep ``weights`` (B, K, slots left) as weights of the slots there were at first."""
        rank = self.slots.rank[:, None].expand_as(weights)
        over_all = weights.new_zeros(*weights.shape[:2], self.alive.shape[1])
        self.merges[stage] = over_all.scatter(2, rank, weights)

    def _replayed_weights(self, stage: int) -> Tensor | None:
        assert self.replayed is not None
        weights = self.replayed.merges.get(stage)
        if weights is None:
            return None
        weights = weights.to(self.alive.device)
        return weights.gather(2, self.slots.rank[:, None].expand(-1, weights.shape[1], -1))

    def _remember(self, stage: int, place: Place, gone: Tensor) -> None:
        assert self.plugin.repair is not None
        normed = self.backbone.input_norm(place.layer, take_rows(place.hidden, place.visual))
        parameter = next(self.plugin.repair.parameters(), normed)
        device = parameter.device  # that of the first repair layer
        dropped = torch.where(gone.to(normed.device)[..., None], normed, 0).float().sum(1)
        dropped = dropped.to(device)
        self.pruned_sum = dropped if self.pruned_sum is None else self.pruned_sum + dropped
        exists = self.tokens.visual_valid
        self.contexts[stage] = self.plugin.repair.remember(
            Dropping(
                alive=self.alive.to(device),
                exists=exists.to(device),
                grid=self.tokens.grid.to(device),
                pruned_sum=self.pruned_sum,
                pruned_count=(exists & ~self.alive).sum(1).to(device),
            )
        )

    def repair_rows(self, layer: int, hidden: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Add the repair to ``hidden`` (B, R, D) at positions ``rows`` (B, A) where ``valid``."""
        repair, stage = self.plugin.repair, self.schedule.stage_over(layer)
        if repair is None or layer not in repair.layers or stage not in self.contexts:
            return hidden
        parameter = next(repair.parameters(), hidden)
        states = take_rows(hidden, rows).to(parameter)
        change = repair(layer, states, self.contexts[stage].to(parameter))
        shown = (valid & self.sees_image).to(hidden.device)
        change = torch.where(shown[..., None], change.to(hidden), 0)
        rows = rows.to(hidden.device)
        return hidden.scatter_add(1, rows[..., None].expand_as(change), change)

    def record_answers(self, layer: int, hidden: Tensor, rows: Tensor) -> None:
        """Put the answer rows of ``hidden`` (B, R, D), found at ``rows`` (B, A), on the trace."""
        if self.trace is not None and layer in self.trace.answer_layers:
            self.trace.answer_states[layer] = take_rows(hidden, rows)[self.tokens.answer_valid]

    def plan(self) -> KeepPlan:
        """What was decided in this forward."""
        return KeepPlan(
            layers=self.schedule.layers[: len(self.stages_alive)],
            alive=torch.stack(self.stages_alive) if self.stages_alive
            else self.tokens.valid[None][:0],
            visual=self.tokens.image,
            merges=dict(self.merges),
        )
