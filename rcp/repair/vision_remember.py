"""A repair by which later rows look back at what the encoder saw where tokens were dropped."""

import torch
from torch import Tensor, nn

from rcp.repair.base import Beside, Dropping, RepairAdapter
from rcp.typed_values import check_range


class VisionRemember(RepairAdapter):
    """Rows attend to windows of the image, each what several encoder layers held there.

    Vision Remember (arXiv 2506.03928 [paper]) lets tokens in between decoder layers attend to their
    local window of encoder features of several layers. Here it is the repaired rows that look, and
    they have no place: they choose among ``side`` x ``side`` windows, of which each holds
    v = value(norm(features)), mean over the dropped tokens that lie in it; a window in which none
    were dropped is not looked at. x += tanh(g_l) up_l(softmax(read_l(h) · (v + p)ᵀ / √width) v),
    with a place p of each window. The gate g starts at zero, so that a fresh adapter is an exact
    identity. Several images share the windows, and what has no place, such as the end of a row of
    patches, is in none. [ours]

    ``features``: numbers an encoder's layers give of a token, together; a plug-in that is made for
    a model fills it in.
    """

    name = "vision_remember"
    needs = frozenset({"encoder_levels"})

    def __init__(
        self, hidden_size: int, layers: list[int], *, features: int, side: int = 4, width: int = 64
    ) -> None:
        super().__init__(hidden_size, layers)
        for size, value in (("features", features), ("side", side), ("width", width)):
            check_range(size, value, 1)
        self.side, self.width = side, width
        self.norm = nn.LayerNorm(features)
        self.values = nn.Linear(features, width, bias=False)
        self.places = nn.Parameter(0.02 * torch.randn(side * side, width))
        self.readers = nn.ModuleDict({str(layer): Glance(hidden_size, width) for layer in layers})

    def summed(self, normed: Tensor, gone: Tensor, beside: Beside | None = None) -> Tensor:
        """Per window the sum of values and their number, (B, side² · (width + 1))."""
        assert beside is not None, "an adapter that needs facts is given them"
        features = beside.facts["encoder_levels"]
        inside = self.windows(beside.grid.to(features.device)) & gone.to(features.device)[..., None]
        features = torch.where(inside.any(-1, keepdim=True), features, 0).to(self.values.weight)
        values = self.values(self.norm(features)).float()
        inside = inside.to(values)
        return torch.cat([inside.mT @ values, inside.sum(1)[..., None]], dim=-1).flatten(1)

    def windows(self, grid: Tensor) -> Tensor:
        """In which window each of the places (B, n, 2) lies: (B, n, side²) bool, one or none."""
        cells = ((grid + 1) / 2 * self.side).floor().clamp(0, self.side - 1)
        number = cells[..., 0] * self.side + cells[..., 1]  # NaN without a place
        return number[..., None] == torch.arange(self.side**2, device=grid.device)

    def remember(self, dropping: Dropping) -> Tensor:
        sums = dropping.sums.unflatten(1, (self.side**2, self.width + 1))
        count = sums[..., -1:]
        return torch.cat([sums[..., :-1] / count.clamp(min=1), count.clamp(max=1)], -1).flatten(1)

    def forward(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        windows = context.unflatten(1, (self.side**2, self.width + 1))
        values, there = windows[..., :-1], windows[..., -1] > 0
        return self.readers[str(layer)](hidden, values + self.places, values, there)


class Glance(nn.Module):
    """What one layer adds to rows (B, A, D), given keys and values (B, W, width) of the windows
    that are ``there`` (B, W) bool."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(hidden_size, width)
        self.up = nn.Linear(width, hidden_size, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, there: Tensor) -> Tensor:
        logits = self.read(hidden) @ keys.mT / keys.shape[-1] ** 0.5
        lowest = torch.finfo(logits.dtype).min
        # where no window is there all values are zero
        shares = logits.masked_fill(~there[:, None], lowest).softmax(-1)
        return torch.tanh(self.gate) * self.up(shares @ values)
