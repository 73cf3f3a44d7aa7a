"""A repair that looks at nothing that was dropped: it teaches later rows to do without."""

from torch import Tensor, nn
from torch.nn import functional

from rcp.repair.base import RepairAdapter
from rcp.typed_values import check_range


class PlainAdapter(RepairAdapter):
    """x += up(GELU(down(h))), ``inner`` wide, at each layer by itself (arXiv 1902.00751).

    ``up`` starts at zero, so that a fresh adapter is an exact identity. [ours]
    """

    name = "adapter"
    remembers = False

    def __init__(self, hidden_size: int, layers: list[int], *, inner: int = 512) -> None:
        super().__init__(hidden_size, layers)
        check_range("inner", inner, 1)
        self.bottlenecks = nn.ModuleDict(
            {str(layer): Bottleneck(hidden_size, inner) for layer in layers}
        )

    def forward(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        return self.bottlenecks[str(layer)](hidden)


class Bottleneck(nn.Module):
    """What one layer adds to rows (B, A, D)."""

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, inner)
        self.up = nn.Linear(inner, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.up(functional.gelu(self.down(hidden)))
