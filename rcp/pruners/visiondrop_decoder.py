"""VisionDrop's part in the decoder: the image itself says which of its tokens matter."""

from torch import Tensor

from rcp.choosing.greedy import cosines
from rcp.choosing.merging import Contextual, nearest_mean, unmerged
from rcp.choosing.schedule import Published
from rcp.choosing.view import View, total_attention
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class VisionDropDecoderPruner(Pruner):
    """Image-to-image attention picks dominant tokens; others join targets (VisionDrop's code).

    Attention of the image's own rows (softmax over all keys, mean over heads), without the text's
    say. The code means over all image rows, though a causal mask lets few see the late tokens: we
    divide by the rows that may. [ours] Merging as in the encoder part, by the layer's keys (head
    means); ``contextual`` is the targets' share of what stays. Published after layers 8, 16 and
    24, whose attention it reads; here before them, by their own attention. Merged tokens stay in
    their slots, where the code appends them behind the dominant ones and packs positions. [ours]
    """

    name = "visiondrop_decoder"
    paper = "arXiv 2506.22283"
    needs = frozenset({"attention"})
    published = (
        Published("LLaVA-1.5-7B, 32 tokens", 32, (8, 16, 24), (35 / 576, 26 / 576, 19 / 576)),
    )

    def __init__(self, hidden_size: int, *, contextual: float = 0.15) -> None:
        super().__init__(hidden_size)
        check_range("contextual", contextual, 0, 1)
        self.contextual = contextual

    def forward(self, view: View) -> Tensor:
        weights = view.blocks("attention")("visual")
        return total_attention(weights) / (weights > 0).sum((1, 2)).clamp(min=1)

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self._split(view, counts).kept

    def merge(self, view: View, keep: Tensor) -> Tensor:
        counts = keep.sum(1)
        targets = self._split(view, counts).targets
        likeness = cosines(view.blocks("attention").visual_keys)
        weights = unmerged(keep, view.limit(counts))
        return nearest_mean(weights, targets, view.alive & ~keep, likeness)

    def _split(self, view: View, counts: Tensor) -> Contextual:
        return Contextual.of(self(view), view.alive, counts, self.contextual)
