"""The training forward: dropped keys are biased away, so that gradients reach the choice."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from rcp.attaching.forwards.columns import Columns
from rcp.attaching.forwards.forward import Arguments, Forward, Setup
from rcp.attaching.forwards.place import Place
from rcp.attaching.forwards.stage import Choice
from rcp.attaching.masks import forbid_keys, key_bias, meeting, with_key_bias
from rcp.attaching.trace import Trace
from rcp.choosing.noise_gate import mixed_with_noise
from rcp.choosing.positions import Positions
from rcp.choosing.selection import top_k
from rcp.choosing.tokens import TokenMap


class SoftForward(Forward):
    """Masks by ``log(c + 1e-12)`` on the key columns of a stage's layer and all later ones.

    With a margin, tokens ranked beyond ``margin`` times a stage's count are physically gone: they
    are too far below the cut for their gradient to matter, and cost most of the time. [ours]

    With a denoiser no token is dropped or masked at all: see :mod:`rcp.choosing.noise_gate`.

    Every part of the plug-in takes part in every forward, whatever the batch holds: data-parallel
    training waits for the gradient of each parameter, and sharded parameters are there in calls
    of their module only. A batch without images or answer rows reaches them with gradient zero.
    """

    def __init__(self, setup: Setup, tokens: TokenMap, trace: Trace | None) -> None:
        tokens = tokens.with_a_slot()
        super().__init__(setup, tokens, trace)
        self.kept = tokens.visual_valid.float()  # c over all slots, with gradient
        self.bias: Tensor | None = None
        self.masks: dict[int, tuple[Tensor | None, Tensor]] = {}

    def enter(self, arguments: Arguments) -> Arguments:
        return self.inputs.take_over(super().enter(arguments))

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        if layer in self.schedule.layers:
            stage = self.schedule.layers.index(layer)
            hidden = self._prune(stage, layer, hidden, arguments)
        self.look_back(layer, hidden, arguments)
        if self.bias is None:
            return hidden, arguments
        mask = self._mask(arguments, hidden)
        changed = {"attention_mask": mask, "position_embeddings": self.inputs.rope(arguments)}
        return meeting(hidden, mask), arguments | changed

    def finish(self, hidden: Tensor, cache: Any) -> Tensor:
        if self.trace is not None:
            self.trace.plan = self.survivors.plan()
        return self.inputs.rows.scattered(hidden)

    def _prune(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        place = self.place(layer, hidden, arguments)
        choice = self.decide(stage, place)
        denoiser = None if self.relaxation is None else self.relaxation.denoiser
        if denoiser is not None and choice.soft is not None:
            return self._mixed(choice, choice.soft, denoiser, hidden, place)
        hidden = choice.folded(hidden, place)
        self._weigh(choice)
        if self.trace is not None and choice.drawn is not None:
            self.trace.drawn[layer] = choice.drawn
            if choice.multiples is not None:
                self.trace.multiples[layer] = choice.multiples
        margin = self.relaxation.margin if self.relaxation is not None else None
        if margin is None:
            self.survivors.go_on(self.survivors.slots.masked(choice.keep))
            return hidden
        return self._drop_far(choice, margin, hidden)

    def _mixed(
        self, choice: Choice, shares: Tensor, denoiser: Module, hidden: Tensor, place: Place
    ) -> Tensor:
        """``hidden`` (B, R, D) with noise in the visual tokens for what they are not kept, of which
        all stay."""
        slots = self.survivors.slots
        rows = place.visual.take(hidden)
        alive = slots.alive.to(hidden.device)
        found = denoiser(mixed_with_noise(rows, shares, alive))
        changed = ((found - rows) * alive[..., None]).to(hidden.dtype)  # fillers share rows
        self.kept = slots.over_all(shares)
        self._note(choice)
        index = place.visual.index(hidden)[..., None]
        return hidden.scatter_add(1, index.expand_as(changed), changed)

    def _weigh(self, choice: Choice) -> None:
        mask = choice.keep.float() if choice.soft is None else choice.soft
        over_all = self.survivors.slots.over_all(mask)
        self.kept = self.kept * over_all
        tokens = self.tokens
        weight = torch.where(tokens.visual_valid, self.kept, 1.0)
        ones = torch.ones(tokens.image.shape, device=weight.device)
        self.bias = key_bias(ones.scatter(1, tokens.visual_columns, weight))
        self.masks.clear()
        self._note(choice)

    def _note(self, choice: Choice) -> None:
        if self.trace is not None:
            self.trace.kept.append(self.kept)
            if choice.scores is not None:
                self.trace.scores.append(choice.scores)

    def _drop_far(self, choice: Choice, margin: float, hidden: Tensor) -> Tensor:
        """Take the rows of tokens far below the cut out of the rest of the forward."""
        survivors, near = self.survivors, choice.keep
        if choice.scores is not None:  # else no gradient reaches any token
            near_counts = (choice.keep.sum(1) * margin).ceil().long()
            near = near | top_k(choice.scores.detach(), survivors.slots.alive, near_counts)
        keep = self.tokens.columns_with(survivors.slots.over_all(near))
        kept_counts, near_counts = torch.stack([choice.keep.sum(1), near.sum(1)]).tolist()
        before = self.inputs.rows
        left = [text + n for text, n in zip(self.tokens.text_counts, near_counts)]
        self.inputs.leave(Columns.kept(keep, left, before.all))
        survivors.go_on(survivors.slots.compacted(choice.keep, max(1, *kept_counts)))
        return before.locate(Positions(self.inputs.rows.current)).take(hidden)

    def _mask(self, arguments: Arguments, hidden: Tensor) -> Tensor:
        own = arguments["attention_mask"]
        cached = self.masks.get(id(own))
        if cached is None:
            assert self.bias is not None
            columns = self.inputs.rows.current.to(hidden.device)
            bias = self.bias.gather(3, columns[:, None, None])
            mask = with_key_bias(self.inputs.rows.take_mask(own), bias, columns, hidden.dtype)
            if self.inputs.rows.real is not None:
                mask = forbid_keys(mask, self.inputs.rows.real)
            # the own mask is kept beside the result, or its id could be given to another
            cached = own, mask
            self.masks[id(own)] = cached
        return cached[1]
