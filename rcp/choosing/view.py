"""What a method may see at one place of the decoder."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

RowSet = Literal["visual", "question", "last"]
"""Rows by role: the visual slots, the question's tokens, the last of these alone."""

LOOKS_BACK = frozenset({"attention_before", "transitions"})
"""What comes from the layer before, and therefore is not there at layer 0."""


class AttentionBlocks(Protocol):
    """Blocks of one decoder layer's attention, each computed when it is asked for."""

    def __call__(
        self,
        queries: RowSet,
        keys: RowSet = "visual",
        *,
        rotary: bool = True,
        among_visual: bool = False,
    ) -> Tensor:
        """Attention weights of ``queries`` to ``keys`` by head: (B, H, queries, keys) fp32.

        Softmax over all keys the layer's own mask allows, text included and dropped tokens not,
        or over the visual ones alone with ``among_visual``. ``rotary`` False leaves positions
        out. Rows and columns of what does not exist are zero.
        """
        ...

    @property
    def visual_keys(self) -> Tensor:
        """The layer's rotated keys of the visual slots, mean over heads: (B, N, d) fp32."""
        ...


@dataclass(frozen=True)
class MappedAttention:
    """The blocks of ``own``, computed when asked for like those, with ``change`` made to them."""

    own: AttentionBlocks
    change: Callable[[Tensor], Tensor]

    def __call__(self, *asked: Any, **how: Any) -> Tensor:
        return self.change(self.own(*asked, **how))

    @property
    def visual_keys(self) -> Tensor:
        return self.change(self.own.visual_keys)


class _Deferred:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def deferred(make: Callable[[], Tensor]) -> Tensor:
    """A field of a :class:`View` that is made when it is first read; mostly it is not."""
    return cast(Tensor, _Deferred(make))


@dataclass(frozen=True)
class View:
    """Everything a pruner is given. Dead and padding slots hold arbitrary finite values.

    A score may depend on alive tokens only: the same call is made on all N slots with a mask
    (training) and on the survivors alone (inference), and both must choose the same tokens.

    ``visual`` (B, N, D) and ``question`` (B, Q, D) are the layer's normed input rows; ``alive``
    (B, N) and ``question_valid`` (B, Q) are bool; ``rank`` (B, N) long is the number of a token in
    its sample, before anything was dropped, of ``total`` (B,) long; ``image_index`` (B, N) long
    and ``grid`` (B, N, 2) in [-1, 1] say where a token comes from. ``stage`` counts the pruning
    stages before this one. ``most`` is the largest number of tokens any sample keeps here, a host
    integer, None where only the device knows; ``whole`` that the host knows of every slot and
    every question token that it exists, and ``each`` how many every sample then keeps.

    The others are there if the method names them in ``needs``, or in ``uses`` and the model has
    them.

    Of the decoder: ``question_attention`` (B, N) fp32: the layer's own attention from the question
    to each visual token, mean over heads and rows. ``attention``: any block of it;
    ``attention_before``: likewise of the layer before. ``layer_input`` (B, N, D): the visual rows
    before the layer's norm. ``text`` (B, X, D): the layer's normed input rows of all text of the
    prompt, and ``text_image`` (B, X) long which image each belongs to, as ``image_index`` numbers
    them: text between an image and the next one belongs to it; -1 where it belongs to none or does
    not exist (:mod:`rcp.choosing.several`). ``transitions`` (B, N) fp32: how much attention and
    feed-forward blocks have turned and scaled each token, summed over layers
    (:mod:`rcp.attaching.forwards.transitions`). ``full_attention`` (B, L, N) fp32: for each of the
    decoder's L layers, question to visual attention of a separate full forward of the unpruned
    model, mean over heads and rows.

    Of its entrance: ``projected`` (B, N, D), ``question_embeds`` (B, Q, D) and ``text_embeds``
    (B, X, D): visual tokens, question and all text as they entered the decoder, before any norm.
    ``frame_index`` (B, N) long: the frame a token is of, counted over its sample before anything
    was dropped; an image is one frame, a video has several. ``encoder_tokens`` (B, N, C): what the
    projector made ``projected`` of, and ``projector`` the projector itself, (..., C) → (..., D).
    ``vision_cls_attention`` (B, N) fp32 and ``encoder_keys`` (B, N, d): in the vision tower's
    layer whose output is projected, the attention of [CLS] to each token and the tokens' keys,
    both mean over heads. ``encoder_attention`` (B, N, M) fp32: attention to the token in that layer
    from each of the M patches of its image, mean over heads; ``encoder_attended`` (B, N, M) fp32:
    how much attention these patches get themselves, over their mean. ``patch_entropy`` (B, N) fp32:
    softmax over the image's patches of the entropy of their grey levels
    (:mod:`rcp.backbones.patch_entropy`). ``encoder_levels`` (B, N, F): what enters several of the
    tower's deep layers at the token, one beside the other. ``tower_survivors`` (B, N) bool: what a
    vision tower has kept that drops patches itself.
    """

    layer: int
    visual: Tensor
    alive: Tensor
    question: Tensor
    question_valid: Tensor
    rank: Tensor
    total: Tensor
    image_index: Tensor
    grid: Tensor
    stage: int = 0
    most: int | None = None
    whole: bool = False
    each: int | None = None
    question_attention: Tensor | None = None
    attention: AttentionBlocks | None = None
    attention_before: AttentionBlocks | None = None
    layer_input: Tensor | None = None
    text: Tensor | None = None
    text_image: Tensor | None = None
    transitions: Tensor | None = None
    full_attention: Tensor | None = None
    projected: Tensor | None = None
    question_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    frame_index: Tensor | None = None
    encoder_tokens: Tensor | None = None
    vision_cls_attention: Tensor | None = None
    encoder_keys: Tensor | None = None
    encoder_attention: Tensor | None = None
    encoder_attended: Tensor | None = None
    patch_entropy: Tensor | None = None
    encoder_levels: Tensor | None = None
    tower_survivors: Tensor | None = None
    projector: Callable[[Tensor], Tensor] | None = None

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if isinstance(value, _Deferred):
            value = value.make()
            object.__setattr__(self, name, value)
        return value

    def made(self) -> "View":
        """This view with all that was deferred made: to be read when its forward has ended."""
        for field in fields(self):
            getattr(self, field.name)
        return self

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "View":
        """This view with ``change`` made to each of its tensors, blocks of attention included."""
        changes: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                changes[name] = change(value)
            elif name in ("attention", "attention_before") and value is not None:
                changes[name] = MappedAttention(value, change)
        return replace(self, **changes)

    def mean_over_alive(self, values: Tensor) -> Tensor:
        """Mean of ``values`` (B, N) over the slots that are alive, 0 without one: (B, 1)."""
        if self.whole:
            return values.mean(1, keepdim=True)
        count = self.alive.sum(1, keepdim=True).clamp(min=1)
        return (values * self.alive).sum(1, keepdim=True) / count

    def mean_of_question(self) -> Tensor:
        """Mean of the question's rows that exist, 0 without one: (B, D)."""
        if self.whole:
            return self.question.mean(1)
        valid = self.question_valid.unsqueeze(-1).to(self.question.dtype)
        return (self.question * valid).sum(1) / valid.sum(1).clamp(min=1)

    def without_dead(self, logits: Tensor) -> Tensor:
        """``logits`` (B, ..., N) with the lowest finite value at slots that are not alive."""
        if self.whole:
            return logits
        batch = self.alive.shape[0]  # an exported graph takes `len` for a constant
        alive = self.alive.view(batch, *(1,) * (logits.dim() - 2), -1)
        return logits.masked_fill(~alive, torch.finfo(logits.dtype).min)

    def alive_count(self) -> Tensor | int:
        """How many slots of each sample are alive: (B, 1), or a number for all of them."""
        return self.alive.shape[1] if self.whole else self.alive.sum(1, keepdim=True)

    def limit(self, counts: Tensor) -> int:
        """The largest of ``counts`` (B,), without waiting for the device where it can be helped."""
        return int(counts.max()) if self.most is None else self.most

    def given(self, name: str) -> Tensor:
        """The optional tensor ``name``, shaped as above, which the method's ``needs`` must list."""
        value = getattr(self, name)
        assert value is not None, "the runner supplies what `needs` names"
        return value

    def blocks(self, name: Literal["attention", "attention_before"]) -> AttentionBlocks:
        """The optional attention ``name``, likewise."""
        value = self.attention if name == "attention" else self.attention_before
        assert value is not None, "the runner supplies what `needs` names"
        return value


def total_attention(weights: Tensor) -> Tensor:
    """Attention (B, H, Q, N) summed over heads and rows: (B, N) fp32.

    Added up in fp64: in fp32 the last bit depends on how many columns there are, and equal tokens
    would no longer tie.
    """
    return weights.sum((1, 2), dtype=torch.float64).float()


def mean_over_question(weights: Tensor, question_valid: Tensor | None) -> Tensor:
    """Attention (B, H, Q, N) of the question, mean over heads and real rows: (B, N) fp32.

    ``question_valid`` (B, Q) bool, None for all; rows outside it are zero in ``weights`` already.
    """
    if question_valid is None:
        return total_attention(weights) / (weights.shape[1] * max(weights.shape[2], 1))
    rows = question_valid.sum(1, keepdim=True).clamp(min=1)
    return total_attention(weights) / (rows * weights.shape[1])
