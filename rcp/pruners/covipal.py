"""CoViPAL's plug-and-play pruning module (arXiv 2508.17243)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class ContextualPruner(Pruner):
    """A small transformer that scores each visual token from all of them and the question.

    S = p(H_v, H_t), keep the top-k [paper]; meant for layer 0, where every layer and the whole
    cache shrink, and works at any. The shape is ours: one projection to ``inner`` for visual and
    text rows alike, so that what is alike in the decoder's space stays alike, with a type
    embedding each and the token's place; ``blocks`` of visual self-attention, gated
    cross-attention to the question and an MLP, with ``heads`` heads; a linear score. At width 4096
    one block has 6.3 M parameters, two have 10.5 M.

    ``text`` False leaves out the question and all that reads it (the text-free variant). ``blind``
    hides the question from a module that was trained with it (ablation).
    """

    name = "covipal"
    paper = "arXiv 2508.17243"
    learned = True
    can_be_blind = True

    def __init__(
        self,
        hidden_size: int,
        *,
        inner: int = 512,
        blocks: int = 1,
        heads: int = 8,
        text: bool = True,
        blind: bool = False,
    ) -> None:
        super().__init__(hidden_size)
        for size, value in (("inner", inner), ("blocks", blocks), ("heads", heads)):
            check_range(size, value, 1)
        self.blind = blind
        self.row_norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.project = nn.Linear(hidden_size, inner)
        nn.init.orthogonal_(self.project.weight)
        self.place = nn.Linear(4 * WAVES, inner)
        self.question_type = TypeEmbedding(inner) if text else None
        self.blocks = nn.ModuleList(Block(inner, heads, text) for _ in range(blocks))
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, 1)

    def forward(self, view: View) -> Tensor:
        visual = self._projected(centred(view.visual, view.alive))
        visual = visual + self.place(waves(view.grid).to(visual.dtype))
        question, known = None, view.question_valid
        if self.question_type is not None:
            question = self.question_type(self._projected(view.question))
            if self.blind:
                known = torch.zeros_like(known)
        for block in self.blocks:
            visual = block(visual, view.alive, question, known)
        return self.head(self.norm(visual)).squeeze(-1).float()

    def _projected(self, rows: Tensor) -> Tensor:
        return self.project(self.row_norm(rows))


def centred(rows: Tensor, alive: Tensor) -> Tensor:
    """``rows`` (B, N, D) minus their mean over ``alive`` (B, N).

    Inside the decoder all image rows carry a common vector, many times longer than what tells one
    from another (measured). [ours]
    """
    share = alive.to(rows.dtype) / alive.sum(1, keepdim=True).clamp(min=1)
    return rows - share[:, None] @ rows


WAVES = 4
"""Frequencies of a token's place, each half the wavelength of the one before."""


def waves(grid: Tensor) -> Tensor:
    """Places (B, N, 2) in [-1, 1] as (B, N, 4 * WAVES) sines and cosines; zeros for no place."""
    frequencies = torch.pi / 2 * 2.0 ** torch.arange(WAVES, device=grid.device)
    angles = (torch.nan_to_num(grid)[..., None] * frequencies).flatten(-2)
    placed = ~grid.isnan().any(-1, keepdim=True)
    return torch.cat([angles.sin(), angles.cos()], dim=-1) * placed


class TypeEmbedding(nn.Module):
    """Tells question rows from visual ones, which have their place and no type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.vector


class Block(nn.Module):
    """Visual self-attention, cross-attention to the question, MLP: each normed, then added."""

    def __init__(self, width: int, heads: int, text: bool) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross = CrossAttention(width, heads) if text else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(
        self, visual: Tensor, alive: Tensor, question: Tensor | None, known: Tensor
    ) -> Tensor:
        normed = self.self_norm(visual)
        visual = visual + self.self_attention(normed, normed, alive)
        if self.cross is not None:
            visual = visual + self.cross(visual, question, known)
        return visual + self.mlp(visual)


class CrossAttention(nn.Module):
    """What the question holds for each visual token, behind a gate for each feature. [ours]

    Queries and keys start as the same projection, so that a token finds the words it resembles.
    Beside the words stands an empty one to look at where none fits: without it a softmax gives
    every token a match.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.visual_norm = nn.LayerNorm(width)
        self.question_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.attention.key.load_state_dict(self.attention.query.state_dict())
        self.no_word = nn.Parameter(torch.zeros(width))
        self.gate = nn.Parameter(torch.ones(width))

    def forward(self, visual: Tensor, question: Tensor, known: Tensor) -> Tensor:
        words = self.question_norm(question)
        words = torch.cat([self.no_word.expand(words.shape[0], 1, -1).to(words), words], dim=1)
        known = functional.pad(known, (1, 0), value=True)
        return self.gate * self.attention(self.visual_norm(visual), words, known)


class Attention(nn.Module):
    """Multi-head attention of ``rows`` (B, N, d) to those ``others`` (B, M, d) that are known."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"inner {width} does not divide into {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, rows: Tensor, others: Tensor, known: Tensor) -> Tensor:
        query, key, value = (
            linear(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, given in ((self.query, rows), (self.key, others), (self.value, others))
        )
        # finite, because a sample without images has no key at all
        bias = torch.zeros_like(known, dtype=query.dtype)
        bias = bias.masked_fill(~known, torch.finfo(query.dtype).min)[:, None, None]
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(found.transpose(1, 2).flatten(-2))
