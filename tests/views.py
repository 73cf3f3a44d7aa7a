"""Views made of random numbers, and smaller ones cut out of them."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rcp.choosing.view import View, mean_over_question

WIDTH, QUESTION, TEXT, HEADS, LAYERS, ENCODER, PATCHES = 8, 3, 7, 2, 4, 6, 5
PROJECTOR = torch.nn.Linear(ENCODER, WIDTH).requires_grad_(False)


@dataclass(frozen=True)
class TableAttention:
    """Attention read off a table of ``logits`` (B, H, N + Q, N + Q): visual slots, then question.

    ``key_table`` (B, N, d) is what :attr:`visual_keys` gives.
    """

    logits: Tensor
    key_table: Tensor
    alive: Tensor
    question_valid: Tensor

    def __call__(self, queries, keys="visual", *, rotary=True, among_visual=False):
        count, question = self.alive.shape[1], self.question_valid.shape[1]
        at = {"visual": slice(0, count), "question": slice(count, None), "last": slice(-1, None)}
        nothing = torch.zeros_like(self.question_valid)
        exists = torch.cat([self.alive, nothing if among_visual else self.question_valid], 1)
        causal = torch.ones(count + question, count + question, dtype=torch.bool).tril()
        allowed = exists[:, None, None] & causal
        weights = self.logits.masked_fill(~allowed, torch.finfo(torch.float32).min).softmax(-1)
        real = torch.cat([self.alive, self.question_valid], 1)[:, None, :, None]
        return (weights * (allowed & real))[:, :, at[queries], at[keys]]

    @property
    def visual_keys(self):
        return self.key_table

    def narrowed(self, rows, slots):
        at = torch.cat([slots, torch.arange(QUESTION) + self.alive.shape[1]])
        return TableAttention(
            self.logits[rows][:, :, at][..., at],
            self.key_table[rows][:, slots],
            self.alive[rows][:, slots],
            self.question_valid[rows],
        )


def make_view(batch, tokens, kind, seed, alive=None, images=1):
    """Every field filled; ``kind``: "random", or in all that is visual "duplicates" of one token,
    "pairs" of equal ones, or "zeros". Up to so many ``images``, of two frames each, unequal."""
    generator = torch.Generator().manual_seed(seed)

    def table(*shape, slot):
        values = torch.randn(shape, generator=generator)
        if kind == "duplicates":
            for dim in slot:
                values.narrow(dim, 0, tokens).copy_(values.narrow(dim, 0, 1).clone())
        if kind == "pairs":
            for dim in slot:
                second = torch.arange(1, tokens, 2)
                values.index_copy_(dim, second, values.index_select(dim, second - 1))
        return values.zero_() if kind == "zeros" else values

    visual = table(batch, tokens, WIDTH, slot=[1])
    alive = torch.ones(batch, tokens, dtype=torch.bool) if alive is None else alive
    question_valid = torch.ones(batch, QUESTION, dtype=torch.bool)
    rank = torch.arange(tokens).expand(batch, tokens)
    side = int(tokens**0.5 + 0.999)
    grid = torch.stack([rank // side, rank % side], -1) / max(1, side - 1) * 2 - 1
    rows = tokens + QUESTION
    several = torch.Generator().manual_seed(seed)
    cuts = torch.randint(0, tokens, (batch, 2 * images - 1), generator=several)
    frame = (cuts[:, :, None] <= rank[:, None]).sum(1)
    text_image = torch.arange(TEXT).remainder(images + 1).sub(1).sort().values

    def attention():
        logits = table(batch, HEADS, rows, rows, slot=[3])
        return TableAttention(logits, table(batch, tokens, WIDTH, slot=[1]), alive, question_valid)

    own = attention()
    return View(
        layer=1,
        visual=visual,
        alive=alive,
        question=torch.randn(batch, QUESTION, WIDTH, generator=generator),
        question_valid=question_valid,
        rank=rank,
        total=torch.full((batch,), tokens),
        image_index=frame // 2,
        grid=grid,
        question_attention=mean_over_question(own("question"), question_valid),
        attention=own,
        attention_before=attention(),
        layer_input=table(batch, tokens, WIDTH, slot=[1]),
        transitions=table(batch, tokens, slot=[1]).abs(),
        full_attention=table(batch, LAYERS, tokens, slot=[2]).abs(),
        text=torch.randn(batch, TEXT, WIDTH, generator=several),
        text_image=text_image.expand(batch, TEXT),
        text_embeds=torch.randn(batch, TEXT, WIDTH, generator=several),
        frame_index=frame,
        projected=table(batch, tokens, WIDTH, slot=[1]),
        question_embeds=torch.randn(batch, QUESTION, WIDTH, generator=generator),
        encoder_tokens=table(batch, tokens, ENCODER, slot=[1]),
        vision_cls_attention=table(batch, tokens, slot=[1]).abs(),
        encoder_keys=table(batch, tokens, ENCODER, slot=[1]),
        projector=PROJECTOR,
        encoder_attention=table(batch, tokens, PATCHES, slot=[1]).abs(),
        encoder_attended=table(batch, 1, PATCHES, slot=[]).abs().expand(batch, tokens, PATCHES),
        patch_entropy=table(batch, tokens, slot=[1]).abs(),
    )


PER_SLOT = {"visual": 1, "alive": 1, "rank": 1, "image_index": 1, "grid": 1,
            "question_attention": 1, "layer_input": 1, "transitions": 1, "full_attention": 2,
            "frame_index": 1, "projected": 1, "encoder_tokens": 1, "vision_cls_attention": 1,
            "encoder_keys": 1, "encoder_attention": 1, "encoder_attended": 1, "patch_entropy": 1}


def narrowed(view, rows, slots=None):
    """The same tokens in a smaller view: some rows, some slots."""
    slots = torch.arange(view.alive.shape[1]) if slots is None else slots

    def cut(name, value):
        if isinstance(value, TableAttention):
            return value.narrowed(rows, slots)
        if not isinstance(value, Tensor):
            return value
        value = value[rows]
        return value.index_select(PER_SLOT[name], slots) if name in PER_SLOT else value

    return View(**{f.name: cut(f.name, getattr(view, f.name)) for f in fields(view)})
