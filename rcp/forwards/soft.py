"""The training forward: all columns stay, dead keys are biased away, gradients flow."""

import torch
from torch import Tensor

from rcp.forwards.base import Arguments, Forward, Setup
from rcp.forwards.stage import Choice, Place
from rcp.forwards.trace import Trace
from rcp.masking import key_bias, with_key_bias
from rcp.tokens import TokenMap


class SoftForward(Forward):
    """Masks by ``log(c + 1e-12)`` on the key columns of a stage's layer and all later ones."""

    def __init__(self, setup: Setup, tokens: TokenMap, trace: Trace | None) -> None:
        super().__init__(setup, tokens, trace)
        self.kept = tokens.visual_valid.float()
        self.bias: Tensor | None = None
        self.masks: dict[int, tuple[Tensor | None, Tensor]] = {}
        length = tokens.image.shape[1]
        self.columns = torch.arange(length, device=tokens.image.device).expand_as(tokens.image)

    def before_layer(
        self, layer: int, hidden: Tensor, arguments: Arguments
    ) -> tuple[Tensor, Arguments]:
        stage = self.stage_at(layer)
        if stage is not None and self.tokens.has_images:
            self._prune(stage, layer, hidden, arguments)
        if self.bias is None:
            return hidden, arguments
        return hidden, arguments | {"attention_mask": self._mask(arguments, hidden.dtype)}

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        tokens = self.tokens
        hidden = self.repair_rows(layer, hidden, tokens.answer_columns, tokens.answer_valid)
        self.record_answers(layer, hidden)
        return hidden

    def finish(self, hidden: Tensor) -> Tensor:
        if self.trace is not None:
            self.trace.plan = self.plan()
        return hidden

    def _prune(self, stage: int, layer: int, hidden: Tensor, arguments: Arguments) -> None:
        tokens = self.tokens
        # own mask and alive keys, not the bias: a score must not see a gradient of older masks
        alive = self.stages_alive[-1] if self.stages_alive else tokens.valid
        place = Place(
            layer=layer,
            hidden=hidden,
            rope=arguments["position_embeddings"],
            mask=arguments["attention_mask"],
            columns=self.columns,
            alive=alive,
            visual=self.slots.columns,
            question=tokens.question_columns,
        )
        choice = self.decide(stage, place)
        self.slots = self.slots.masked(choice.keep)
        self._weigh(choice)

    def _weigh(self, choice: Choice) -> None:
        mask = choice.keep.float() if choice.soft is None else choice.soft
        self.kept = self.kept * mask
        tokens = self.tokens
        weight = torch.where(tokens.visual_valid, self.kept, 1.0)
        ones = torch.ones(tokens.image.shape, device=weight.device)
        self.bias = key_bias(ones.scatter(1, tokens.visual_columns, weight))
        self.masks.clear()
        if self.trace is not None:
            self.trace.kept.append(self.kept)
            if choice.scores is not None:
                self.trace.scores.append(choice.scores)

    def _mask(self, arguments: Arguments, dtype: torch.dtype) -> Tensor:
        own = arguments["attention_mask"]
        cached = self.masks.get(id(own))
        if cached is None:
            assert self.bias is not None
            # the own mask is kept beside the result, or its id could be given to another
            cached = own, with_key_bias(own, self.bias, self.columns, dtype)
            self.masks[id(own)] = cached
        return cached[1]
