"""RCP's delayed repair adapter: FiLM on answer rows, conditioned on what was dropped."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcp.repair.base import Dropping, RepairAdapter
from rcp.typed_values import check_range


class FilmRepair(RepairAdapter):
    """x += up(γ · h + β), γ and β from a context of the dropped tokens (RCP [draft]).

    ``inner`` is 512 in the paper, ``side`` x ``side`` the learned grid of ``channels``-vectors.
    Without ``context`` γ and β come from the row alone, for comparison [ours]. α = 1 and ``up``
    starts at zero, so that a fresh adapter is an exact identity [ours].
    """

    name = "film"

    def __init__(
        self,
        hidden_size: int,
        layers: list[int],
        *,
        inner: int = 512,
        side: int = 24,
        channels: int = 64,
        context: bool = True,
    ) -> None:
        super().__init__(hidden_size, layers)
        self.remembers = context
        for size, value in (("inner", inner), ("side", side), ("channels", channels)):
            check_range(size, value, 1)
        if context:
            self.context = ContextEncoder(hidden_size, inner, side, channels)
        self.films = nn.ModuleDict({str(layer): Film(hidden_size, inner) for layer in layers})

    def remember(self, dropping: Dropping) -> Tensor:
        return self.context(dropping)

    def forward(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        return self.films[str(layer)](hidden, context)


class ContextEncoder(nn.Module):
    """``e_mask + e_pruned`` of a stage, (B, inner) (RCP [draft])."""

    def __init__(self, hidden_size: int, inner: int, side: int, channels: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, channels, side, side) * 0.02)
        self.query = nn.Parameter(torch.randn(channels) * 0.02)
        self.mask_projection = nn.Linear(channels, inner)
        self.pruned_projection = nn.Linear(hidden_size, inner)

    def forward(self, dropping: Dropping) -> Tensor:
        whole = dropping.all_placed
        place = dropping.grid if whole else torch.nan_to_num(dropping.grid)
        batch = len(place)
        sampled = functional.grid_sample(
            self.positions.expand(batch, -1, -1, -1),
            # grid_sample wants (x, y)
            place.to(self.positions.dtype)[:, :, None].flip(-1),
            padding_mode="border",
            align_corners=False,
        )
        alive = dropping.alive
        placed = None if whole else dropping.exists & ~dropping.grid.isnan().any(-1)
        if placed is not None:
            alive = alive & placed
        kept = sampled.squeeze(-1).transpose(1, 2) * alive[..., None]
        logits = (kept @ self.query / self.query.shape[0] ** 0.5).float()
        if placed is not None:
            logits = logits.masked_fill(~placed, torch.finfo(logits.dtype).min)
        weights = logits.softmax(-1).to(kept.dtype)
        mask_context = self.mask_projection((weights[:, None] @ kept).squeeze(1))
        dtype = mask_context.dtype
        return mask_context + dropping.of_pruned_mean(
            lambda mean: self.pruned_projection(mean.to(dtype))
        )


class Film(nn.Module):
    """One repair layer: what to add to rows (B, A, D), given the context (B, inner) or (B, 0).

    With s = state(h) + context, or state(h), the features GELU(down(h)) are scaled by 1 + gamma(s)
    and shifted by beta(s) (RCP [draft]); zero when fresh. [ours]
    """

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.state = nn.Linear(hidden_size, inner)
        self.down = nn.Linear(hidden_size, inner)
        self.gamma = nn.Linear(inner, inner)
        self.beta = nn.Linear(inner, inner)
        self.up = nn.Linear(inner, hidden_size)
        for linear in (self.gamma, self.beta, self.up):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        condition = self.state(hidden)
        if context.shape[1]:
            condition = context[:, None] + condition
        features = functional.gelu(self.down(hidden))
        return self.up((1 + self.gamma(condition)) * features + self.beta(condition))
