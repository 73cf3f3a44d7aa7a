"""What all modes share: from a place in the decoder to a choice. One instance, one forward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.forwards.entry import Entry
from rcp.attaching.forwards.layer_inputs import LayerInputs
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.repairing import Repairing
from rcp.attaching.forwards.stage import Choice, Seen, choose, look
from rcp.attaching.forwards.survivors import Survivors
from rcp.attaching.forwards.transitions import transition
from rcp.attaching.trace import Trace
from rcp.backbones import Backbone
from rcp.backbones.base import Rope
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.positions import Positions
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.sampling import Sampling
from rcp.choosing.schedule import Schedule
from rcp.choosing.several import prompt_text
from rcp.choosing.tokens import TokenMap
from rcp.choosing.view import View
from rcp.plugin import Plugin
from rcp.pruners import Pruner

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What an attachment fixes for all its forwards.

    ``facts``: what its methods read of images and question as they entered the decoder;
    ``before_decoder``: tokens are dropped before the decoder, which needs no hook on its layers.
    """

    backbone: Backbone
    plugin: Plugin
    plan: KeepPlan | None
    relaxation: Relaxation | Sampling | None
    facts: frozenset[str]
    before_decoder: bool = False

    def counts_are_known(self, stage: int) -> bool:
        """Whether what is left after ``stage`` is as scheduled; else the device must tell."""
        return self.plan is None and self.plugin.fixes_counts(stage)


class Forward:
    """One forward of the model. The hooks call :meth:`enter`, :meth:`before_layer`,
    :meth:`after_layer` and :meth:`finish` in this order; a mode overrides what it changes.

    What changes while it runs has other owners: ``survivors``, ``repairing``, ``inputs`` and
    ``entry``. Here, :meth:`enter` gives ``tokens`` their places, and starts ``survivors`` with
    them, and ``seen`` gathers what the hooks before a stage leave for it. ``budgets``: see there.
    """

    def __init__(
        self,
        setup: Setup,
        tokens: TokenMap,
        trace: Trace | None,
        budgets: Sequence[Schedule] = (),
    ) -> None:
        self.setup = setup
        self.backbone = setup.backbone
        self.plugin = setup.plugin
        self.replayed = setup.plan
        if setup.plan is not None and tokens.has_images:
            setup.plan.check(tokens.image)
        self.relaxation = setup.relaxation
        self.tokens = tokens
        self.trace = trace
        self.schedule = setup.plugin.schedule
        self.budgets = budgets
        self.survivors = Survivors(tokens, self.schedule, budgets)
        spec = setup.plugin.spec.repair
        all_text = spec is not None and spec.rows == "text"
        self.repairing = Repairing(setup.plugin.repair, tokens, all_text)
        repack = setup.plugin.spec.position_policy == "repack"
        self.inputs = LayerInputs(setup.backbone, tokens.columns, repack)
        self.seen = Seen()
        self.entry = Entry(setup.backbone, setup.facts, setup.plugin)
        if trace is not None:
            trace.restart()
            trace.visual_valid = tokens.visual_valid

    @property
    def wants_full_attention(self) -> bool:
        """Whether a stage asks what the unpruned model attends to."""
        pruners = [self.plugin.pruner(at) for at in self.schedule.layers]
        asked = any("full_attention" in pruner.needs for pruner in pruners)
        return asked and self.tokens.visual_columns.shape[1] > 0 and self.replayed is None

    def enter(self, arguments: Arguments) -> Arguments:
        """Called with the decoder's keyword arguments; returns what it shall get instead."""
        arguments = self.backbone.with_all_rows(arguments)
        embeds, positions = arguments.get("inputs_embeds"), arguments.get("position_ids")
        if self.tokens.has_images and embeds is not None:
            places = self.backbone.places(self.tokens.image, embeds, positions)
            if places is not None:
                self.tokens = self.tokens.placed(places.index, places.grid)
                self.survivors = Survivors(self.tokens, self.schedule, self.budgets)
        if self.tokens.has_images:
            self.entry.enter(self.tokens, embeds, positions)
        return arguments

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        """Called with the layer's input (B, R, D); returns what the layer shall get instead."""
        return hidden, arguments

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Called with the layer's output (B, R, D); returns what follows shall see."""
        if self.repairing.acts_at(layer):
            rows = self.inputs.rows.locate(self.repairing.at)
            hidden = self.repairing.repaired(
                layer, self.schedule.stage_over(layer), hidden, rows
            )
        hidden = self.inputs.add(layer, hidden)
        self.record_answers(layer, hidden)
        return hidden

    @torch.no_grad()  # a checkpointed layer would be computed again without what is noted here
    def after_block(self, entered: Tensor, left: Tensor) -> None:
        """Called with a block's normed input and its output, (B, rows, D), where a stage asks."""
        survivors, rows = self.survivors, self.inputs.rows
        slots = survivors.slots
        if not slots.columns.shape[1]:
            return
        device = slots.alive.device
        alive = survivors.columns.gather(1, rows.current).to(entered.device)
        moved = transition(entered, left, alive).to(device)
        moved = self.visual_rows.take(moved) * slots.alive
        before = self.seen.transitions
        total = torch.zeros(survivors.alive.shape, device=device) if before is None else before
        self.seen.transitions = total.scatter_add(1, slots.rank, moved)

    def finish(self, hidden: Tensor, cache: Any) -> Tensor:
        """Called with the decoder's last hidden states, (B, rows, D), and the cache it filled."""
        return hidden

    def place(self, layer: int, hidden: Tensor, arguments: Arguments) -> Place:
        """Where a stage before ``layer`` stands, given the layer's input (B, R, D) and keywords."""
        rows = self.inputs.rows
        # own mask and alive keys, not the bias: a score must not see a gradient of older masks
        mask = arguments["attention_mask"]
        if mask is not None:
            # keys of this forward only; of flash attention's padding mask `alive` says the same
            mask = None if mask.dim() == 2 else mask[..., -rows.length :]
        survivors = self.survivors
        alive = None if survivors.every_column and rows.real is None else survivors.columns
        return Place(
            layer=layer,
            hidden=hidden,
            make_rope=self.rope_maker(arguments),
            mask=rows.take_mask(mask),
            columns=rows.current,
            alive=None if alive is None else alive.gather(1, rows.current),
            visual=self.visual_rows,
            question=rows.locate(self.tokens.question_at),
            locate_text=lambda: rows.locate(prompt_text(self.tokens)),
            norm=partial(self.backbone.input_norm, layer),
        )

    def rope_maker(self, arguments: Arguments) -> Callable[[], Rope]:
        """What makes the rotary embeddings of the rows left, given a layer's ``arguments``."""
        rope = self.inputs.rope(arguments)  # now: rows may have gone when they are asked for
        return lambda: rope

    @property
    def visual_rows(self) -> Positions:
        """Where the visual tokens still in play are among the rows left."""
        rows, slots = self.inputs.rows, self.survivors.slots
        if rows.shrunk is not None and slots.whole:
            return Positions(run=rows.shrunk.rows)
        return rows.locate(slots.columns_at)

    def look_back(self, layer: int, hidden: Tensor, arguments: Arguments) -> None:
        """Keep the input of ``layer`` if a stage at the next one asks for this one's attention."""
        if layer + 1 not in self.schedule.layers or not self.survivors.slots.alive.shape[1]:
            return
        if "attention_before" in self.plugin.pruner(layer + 1).needs:
            self.seen.before = self.place(layer, hidden, arguments)

    def view(self, pruner: Pruner, place: Place, **known: Any) -> View:
        """What ``pruner`` may see at ``place`` of the slots left, before the stage there; ``known``
        fields are handed on."""
        slots, device = self.survivors.slots, place.hidden.device
        stage = self.schedule.layers.index(place.layer)
        entered = self.entry.seen(pruner.needs | pruner.uses, slots, device)
        return look(
            self.backbone,
            pruner,
            place,
            slots,
            self.tokens.question_valid.to(device),
            self.seen,
            stage=stage,
            **entered,
            **known,
        )

    def decide(self, stage: int, place: Place) -> Choice:
        """Choose at ``place`` among the slots left, and remember what goes."""
        device = self.backbone.device(place.layer)  # the token map lives on the first one
        place = place.to(device)
        if self.replayed is not None:
            keep, weights = self.survivors.planned(self.replayed, stage)
            choice = Choice(keep, weights=weights)
        else:
            choice = self._chosen(stage, place, device)
        certain = self.setup.counts_are_known(stage)
        self.survivors.drop(stage, choice.keep, choice.weights, certain=certain)
        if self.repairing.adapter is not None:
            facts = self.entry.seen(self.repairing.adapter.needs, self.survivors.slots, device)
            rows = place.visual.take(place.normed)
            self.repairing.remember(stage, rows, self.survivors, facts)
        if stage == 0:
            self.inputs.close_gaps(place.hidden, self.tokens, self.survivors)
        return choice

    def _chosen(self, stage: int, place: Place, device: torch.device) -> Choice:
        pruner, selection = self.plugin.pruner(place.layer), self.plugin.selection(stage)
        counts = self.survivors.counts[stage]
        most = max(counts) if selection == "top_k" else None
        each = most if self.survivors.slots.whole and min(counts) == most else None
        view = self.view(pruner, place, most=most, each=each)
        if self.trace is not None and place.layer in self.trace.view_layers:
            self.trace.views[place.layer] = view.made()
        if each is None:
            wanted = torch.tensor(counts, dtype=torch.long, device=device)
        else:
            wanted = torch.full((len(counts),), each, device=device)
        choice = choose(pruner, view, wanted, selection, self.relaxation)
        return choice.to(self.survivors.slots.alive.device)

    def record_answers(self, layer: int, hidden: Tensor) -> None:
        """Put the answer rows of a layer's output ``hidden`` (B, R, D) on the trace, if it asks."""
        if self.trace is not None and layer in self.trace.answer_layers:
            rows = self.inputs.rows.locate(self.tokens.answer_at)
            self.trace.answer_states[layer] = rows.take(hidden)[self.tokens.answer_valid]
