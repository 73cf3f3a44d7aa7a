"""CATP, second stage: what the question looks for among demonstrations, and what they speak of."""

import torch
from torch import Tensor

from rcp.choosing.greedy import normalised
from rcp.choosing.groups import consecutive, quotas
from rcp.choosing.schedule import Published
from rcp.choosing.selection import top_k
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class CATPDecoderPruner(Pruner):
    """Rising attention and likeness to the query, over all demonstrations (CATP's paper, stage 2).

    The last image is the query's, those before it are demonstrations. A token of these is worth
    max(0, A_l - A_(l-1)), the last token's attention in the stage's layer and in the one before,
    mean over heads, plus ``likeness`` times its cosine to the mean of the query's rows, image and
    question. All demonstrations share one count, whatever each of them keeps. The query's image
    keeps those of its tokens that are most like the mean of the context that is left:
    demonstrations with their text, and the question.

    Ours: the query's image gets the share of the count that it has of the tokens, so that exactly
    the stage's count stays; it loses its tokens in the same layer, where the paper waits for the
    next one; rows are the layer's normed input; without demonstrations the context is the question.
    """

    name = "catp_decoder"
    paper = "arXiv 2508.07871"
    needs = frozenset({"attention", "attention_before", "text", "text_image"})
    published = (Published("LLaVA-NeXT-7B, 77.8 % pruned", 32, (6,), (0.222,)),)

    def __init__(self, hidden_size: int, *, likeness: float = 0.6) -> None:
        super().__init__(hidden_size)
        check_range("likeness", likeness, 0)
        self.likeness = likeness

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive, question = view.alive, view.question_valid
        last = _last_image(view)
        asked = alive & (view.image_index == last)
        shown = alive & ~asked
        quota = quotas(counts, consecutive(asked.long(), alive), alive)
        query = _mean((view.visual, asked), (view.question, question))
        worth = _rise(view) + self.likeness * _cosine(view.visual, query)
        kept = top_k(worth, shown, _of(quota, shown))
        text_image = view.given("text_image")
        paired = (text_image >= 0) & (text_image < last)
        context = _mean(
            (view.visual, kept), (view.given("text"), paired), (view.question, question)
        )
        return kept | top_k(_cosine(view.visual, context), asked, _of(quota, asked))


def _last_image(view: View) -> Tensor:
    """The number of each sample's last image, which may be known by its text alone: (B, 1)."""
    shown = torch.where(view.alive, view.image_index, -1)
    return torch.cat([shown, view.given("text_image")], dim=1).amax(1, keepdim=True)


def _rise(view: View) -> Tensor:
    """How much more the last token attends to each visual one than a layer before: (B, N)."""
    now, before = view.blocks("attention")("last"), view.blocks("attention_before")("last")
    return (total_attention(now) - total_attention(before)).clamp(min=0) / now.shape[1]


def _of(quota: Tensor, group: Tensor) -> Tensor:
    """The quota that the tokens of ``group`` (B, N) bool share, 0 where it has none: (B,)."""
    return torch.where(group, quota, 0).amax(1)


def _mean(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of all rows (B, R, D) that are marked in (B, R) bool, 0 without one: (B, 1, D) fp64."""
    total = sum((rows.double() * marked[..., None]).sum(1) for rows, marked in parts)
    count = sum(marked.sum(1) for _, marked in parts)
    assert isinstance(total, Tensor) and isinstance(count, Tensor)
    return (total / count.clamp(min=1)[:, None])[:, None]


def _cosine(rows: Tensor, other: Tensor) -> Tensor:
    """Of each row (B, N, D) to ``other`` (B, 1, D): (B, N) fp64."""
    return (normalised(rows) * normalised(other)).sum(-1).round(decimals=9)
