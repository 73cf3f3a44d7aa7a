"""A repair that keeps a small memory of the dropped tokens, which later rows read."""

import torch
from torch import Tensor, nn

from rcp.repair.base import Beside, Dropping, RepairAdapter
from rcp.typed_values import check_range

CAP = 10.0
"""Logits of writing lie within ± this: sums over stages need no common maximum to stay finite."""


class MemoryRepair(RepairAdapter):
    """Rows attend to ``slots`` vectors of ``width``, each a mean of dropped tokens. [ours]

    Writing: slot j holds Σ w_jn v(h_n) / Σ w_jn over all dropped tokens n, each as it was when it
    was dropped, w_jn = exp(c tanh(q_j · k(h_n) / (c √width))) with learned queries q and c = 10.
    Reading: x += up_l(softmax(read_l(h) · mᵀ / √width) m). ``up`` starts at zero and has no bias,
    so that a fresh adapter, and one that remembers nothing, is an exact identity.
    """

    name = "memory"

    def __init__(
        self, hidden_size: int, layers: list[int], *, slots: int = 16, width: int = 64
    ) -> None:
        super().__init__(hidden_size, layers)
        for size, value in (("slots", slots), ("width", width)):
            check_range(size, value, 1)
        self.slots, self.width = slots, width
        self.queries = nn.Parameter(torch.randn(slots, width))
        self.keys = nn.Linear(hidden_size, width, bias=False)
        self.values = nn.Linear(hidden_size, width, bias=False)
        self.readers = nn.ModuleDict({str(layer): Reader(hidden_size, width) for layer in layers})

    def summed(self, normed: Tensor, gone: Tensor, beside: Beside | None = None) -> Tensor:
        """Per slot the weighted sum of values and the sum of weights, (B, slots · (width + 1))."""
        rows = torch.where(gone[..., None], normed, 0).to(self.keys.weight)
        logits = (self.keys(rows) @ self.queries.T).float() / self.width**0.5
        weights = (CAP * torch.tanh(logits / CAP)).exp() * gone[..., None].to(rows.device)
        values = weights.mT @ self.values(rows).float()
        return torch.cat([values, weights.sum(1)[..., None]], dim=-1).flatten(1)

    def remember(self, dropping: Dropping) -> Tensor:
        sums = dropping.sums.unflatten(1, (self.slots, self.width + 1))
        total = sums[..., -1:]
        return (sums[..., :-1] / torch.where(total > 0, total, 1)).flatten(1)

    def forward(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        memory = context.unflatten(1, (self.slots, self.width))
        return self.readers[str(layer)](hidden, memory)


class Reader(nn.Module):
    """What one layer adds to rows (B, A, D), given the memory (B, slots, width)."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(hidden_size, width)
        self.up = nn.Linear(width, hidden_size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        logits = self.read(hidden) @ memory.mT / memory.shape[-1] ** 0.5
        return self.up(logits.softmax(-1) @ memory)
