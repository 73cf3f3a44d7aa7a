"""What a prefill costs: floating-point operations and cache bytes, from a decoder's sizes alone.

One multiply-add counts as two operations. Counted are matrix products, as torch's
``FlopCounterMode`` counts them: projections, attention, MLP and output head. Norms, activations
and rotary embeddings are left out; they are well below one percent. Of a running state what its
recurrence multiplies is counted: kernels that take many rows at once multiply more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of one layer's attention, or of what stands in its place.

    ``projections``: columns of all its linear maps together, each of which is as long as the
    decoder is wide; ``beside``: FLOPs a row of all else but the attention itself. A layer without
    keys of its own has no ``kv_heads``; one that carries a running state has no ``heads``, and
    caches ``state`` values, however many rows there are.
    """

    heads: int
    kv_heads: int
    head_dim: int
    projections: int
    beside: int = 0
    state: int = 0


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a decoder-only language model.

    ``head_dim`` need not be ``hidden / heads``. ``gated``: the MLP has three matrices, not two.
    ``windows``: per layer, the sliding window in tokens, None for full attention. ``experts``:
    among how many a router chooses, 0 where there is none; ``intermediate`` is then the width of
    all experts that one token visits. ``dense``: per layer, the width of a plain MLP beside layers
    with experts, None for one of these; empty where all layers are alike. ``attentions``: per
    layer, where they are not all like ``heads``, ``kv_heads`` and ``head_dim``.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    gated: bool
    windows: tuple[int | None, ...]
    experts: int = 0
    dense: tuple[int | None, ...] = ()
    attentions: tuple[AttentionSizes, ...] = ()

    @property
    def layers(self) -> int:
        return len(self.windows)

    def attention(self, layer: int) -> AttentionSizes:
        """The sizes of the attention of ``layer``."""
        if self.attentions:
            return self.attentions[layer]
        columns = 2 * (self.heads + self.kv_heads) * self.head_dim
        return AttentionSizes(self.heads, self.kv_heads, self.head_dim, columns)

    def mlp(self, layer: int) -> tuple[int, int]:
        """The width of the MLP of ``layer``, and the experts among which its router chooses."""
        plain = self.dense[layer] if self.dense else None
        return (self.intermediate, self.experts) if plain is None else (plain, 0)


def layer_flops(facts: DecoderSizes, rows: int, layer: int = 0) -> int:
    """FLOPs of decoder layer ``layer`` on ``rows`` tokens that attend to each other.

    The full square of attention is counted, as dense kernels under a causal or sliding mask
    compute it and as torch counts it for those that skip half of it.
    """
    sizes = facts.attention(layer)
    projections = rows * (2 * facts.hidden * sizes.projections + sizes.beside)
    attention = 2 * 2 * rows * rows * sizes.heads * sizes.head_dim
    matrices = 3 if facts.gated else 2
    width, experts = facts.mlp(layer)
    mlp = 2 * rows * facts.hidden * width * matrices
    router = 2 * rows * facts.hidden * experts
    return projections + attention + mlp + router


def prefill_flops(facts: DecoderSizes, rows: Sequence[int]) -> int:
    """FLOPs of the decoder and its output head in one prefill.

    ``rows``: tokens present in each layer. The head is applied to the last one only, which is all
    that a generation needs.
    """
    head = 2 * facts.hidden * facts.vocab
    return sum(layer_flops(facts, count, at) for at, count in enumerate(rows)) + head


def kv_bytes(facts: DecoderSizes, rows: Sequence[int], value_bytes: int) -> list[int]:
    """Bytes that each layer caches after a prefill over ``rows`` tokens: keys, values, or a state.

    ``value_bytes``: bytes of one number, 4 in fp32 and 2 in bf16. A layer with a sliding window
    caches all but one of its tokens at most: the newest query brings its own key.
    """
    held = [
        count if window is None else min(count, window - 1)
        for count, window in zip(rows, facts.windows, strict=True)
    ]
    sizes = [facts.attention(layer) for layer in range(facts.layers)]
    return [
        (2 * size.kv_heads * size.head_dim * count + size.state) * value_bytes
        for size, count in zip(sizes, held, strict=True)
    ]


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a vision tower like CLIP's: ``blocks`` blocks of width ``hidden``, a plain MLP of
    ``intermediate`` in each, patches of ``pixels`` values; ``projector``: columns that its linear
    maps read times those they give, added up."""

    hidden: int
    intermediate: int
    blocks: int
    pixels: int
    projector: int


def tower_flops(sizes: TowerSizes, patches: int, left: Mapping[int, int]) -> int:
    """FLOPs of encoding and projecting one image of ``patches`` patches beside [CLS].

    ``left``: how many are left behind the attention of each block that drops some and fuses them.
    """
    total, rows = 2 * patches * sizes.pixels * sizes.hidden, patches + 1
    for block in range(sizes.blocks):
        total += 2 * rows * 4 * sizes.hidden**2 + 4 * rows**2 * sizes.hidden
        if left.get(block, patches) < patches:
            total += 2 * (2 * rows - 1) * sizes.hidden  # what [CLS] attends to, and the fused row
            patches = left[block]
            rows = patches + 2
        total += 2 * 2 * rows * sizes.hidden * sizes.intermediate
    return total + 2 * patches * sizes.projector


def paper_prefill_flops(hidden: int, intermediate: int, rows: Sequence[int]) -> int:
    """Sum over layers of ``2s·4h² + 4s²h + 6shm``: the formula that pruning papers print.

    s tokens, width h, gated MLP of width m. Multi-head attention without grouped keys, heads as
    wide as the model, no output head, no plug-in (RCP [computed], to compare with published
    percentages). Everything else in this package is counted by :func:`prefill_flops`.
    """
    return sum(
        2 * s * 4 * hidden**2 + 4 * s**2 * hidden + 6 * s * hidden * intermediate for s in rows
    )


def per_layer(spans: Sequence[int], values: Sequence[int]) -> list[int]:
    """``values[i]`` repeated ``spans[i]`` times: what holds under each stage, by layer."""
    return [value for span, value in zip(spans, values, strict=True) for _ in range(span)]
