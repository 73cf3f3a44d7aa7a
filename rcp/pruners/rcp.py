"""RCP's residual cross-attention pruner (arXiv 2604.04972)."""

import torch
from torch import Tensor, nn

from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class CrossAttentionPruner(Pruner):
    """The layer's own attention, corrected by a learned residual (RCP, first draft).

    z = base + S_a + S_t + b: ``base`` the centred log of the question's attention, ``S_a`` a
    cross-attention of learned, question-conditioned queries to the visual tokens, ``S_t`` a
    per-token MLP. Starts as top-k by the layer's own attention, keeping (b = 2).

    ``inner`` is d (512 in the paper), ``queries`` n_q, ``heads`` the heads of the
    cross-attention. ``dropout`` drops query rows and MLP features; ``gain`` is that of the initial
    visual projection, 0.1 in the draft; a short run learns more from 1 [ours].
    ``literal_scale`` uses the attention weights as written; the default ``w * n_alive - 1`` [ours]
    is zero for a flat attention and does not shrink as 1/N. ``intrinsic`` False leaves out
    ``base`` (ablation). ``blind`` zeroes the question, whose attention is then flat and ``base``
    zero (ablation).
    """

    name = "rcp"
    paper = "arXiv 2604.04972"
    needs = frozenset({"question_attention"})
    learned = True
    can_be_blind = True

    def __init__(
        self,
        hidden_size: int,
        *,
        inner: int = 512,
        queries: int = 16,
        heads: int = 4,
        dropout: float = 0.2,
        gain: float = 0.1,
        literal_scale: bool = False,
        intrinsic: bool = True,
        blind: bool = False,
    ) -> None:
        super().__init__(hidden_size)
        for size, value in (("inner", inner), ("queries", queries), ("heads", heads)):
            check_range(size, value, 1)
        if inner % heads:
            raise ValueError(f"inner {inner} does not divide into {heads} heads")
        self.heads = heads
        self.literal_scale = literal_scale
        self.intrinsic = intrinsic
        self.blind = blind
        self.visual = nn.Linear(hidden_size, inner)
        nn.init.xavier_uniform_(self.visual.weight, gain=gain)
        self.question = nn.Linear(hidden_size, inner)
        self.question_norm = nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.randn(queries, inner) * 0.02)
        self.query_projection = nn.Linear(inner, inner)
        self.key_projection = nn.Linear(inner, inner)
        self.mix = nn.Linear(queries, 1)
        nn.init.constant_(self.mix.weight, 1 / queries)
        nn.init.zeros_(self.mix.bias)
        # the last layer starts at zero: the start is the layer's own attention
        token_head = nn.Linear(inner, 1)
        nn.init.zeros_(token_head.weight)
        nn.init.zeros_(token_head.bias)
        self.token_mlp = nn.Sequential(
            nn.Linear(inner, inner), nn.LayerNorm(inner), nn.GELU(), nn.Dropout(dropout), token_head
        )
        self.row_dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.tensor([2.0]))

    def forward(self, view: View) -> Tensor:
        visual = self.visual(view.visual)
        weights = self._cross_attention(view, visual)
        if not self.literal_scale:
            count = view.alive_count()
            weights = weights * (count if isinstance(count, int) else count[:, None]) - 1
        if self.training:
            weights = weights * self.row_dropout(torch.ones_like(weights[..., :1]))
        residual = self.mix(weights.transpose(1, 2)).squeeze(-1)
        scores = residual.float() + self.token_mlp(visual).squeeze(-1).float() + self.bias.float()
        if self.intrinsic and not self.blind:
            scores = scores + centred_log(view)
        return scores

    def _conditioned_queries(self, view: View) -> Tensor:
        """(B, n_q, d): learned queries shifted by the mean question hidden state."""
        mean = view.mean_of_question()
        if self.blind:
            mean = torch.zeros_like(mean)
        return self.queries + self.question_norm(self.question(mean))[:, None]

    def _cross_attention(self, view: View, visual: Tensor) -> Tensor:
        """Head mean of the attention weights over alive tokens, (B, n_q, N), of ``visual``."""
        queries = self._conditioned_queries(view)
        query = self.query_projection(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key = self.key_projection(visual).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        logits = (query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5
        return view.without_dead(logits).softmax(-1).mean(1).to(visual.dtype)


def centred_log(view: View) -> Tensor:
    """log(max(q2v, 1e-6)) minus its mean over alive tokens, (B, N), detached (RCP [draft])."""
    attention = view.given("question_attention")
    logs = attention.detach().float().clamp(min=1e-6).log()
    return logs - view.mean_over_alive(logs)
