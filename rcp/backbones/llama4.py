"""Llama 4: layers that attend within chunks of the prompt, and some that know no positions."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rcp.backbones.base import Rope
from rcp.backbones.before_decoder import BeforeDecoder


class Llama4(BeforeDecoder):
    """Chunks are counted from a prompt's first row: their borders move with the rows that go, and
    what is left of more text and images shares one."""

    model_types = ("llama4",)
    title = "Llama 4"
    only_before = "attends within chunks of the prompt, whose borders dropping would move"
    limits = (
        "each tile counts as an image: marker tokens between tiles are ordinary text; a method "
        "that asks for attention is given layer 0's without chunks; layers without positions scale "
        "their attention in decoding as if nothing had gone"
    )

    @cached_property
    def decoder(self) -> Any:
        """The model names its language model with the head."""
        found = self.model.get_decoder()
        return found if hasattr(found, "layers") else found.model

    @property
    def cached(self) -> tuple[int | None, ...]:
        """Of a layer with chunks, the rows of the last one."""
        size = self.text_config.attention_chunk_size
        kinds = self.text_config.layer_types
        return tuple(size if kind == "chunked_attention" else None for kind in kinds)

    def blocks(self, layer: int) -> tuple[nn.Module, nn.Module]:
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.self_attn, decoder_layer.feed_forward

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        turn = self.decoder.rotary_emb(hidden, positions)
        return turn.real, turn.imag

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        attention = self._attention(layer)
        if not attention.use_rope:
            return query, key
        turn = torch.complex(rope[0].float(), rope[1].float())[:, None]
        turned = [_turned(query, turn), _turned(key, turn)]
        if hasattr(attention, "qk_norm"):
            turned = [attention.qk_norm(rows) for rows in turned]
        return turned[0], turned[1]


def _turned(rows: Tensor, turn: Tensor) -> Tensor:
    """``rows`` (B, H, R, d), whose neighbouring channels are one complex number, by ``turn``."""
    pairs = torch.view_as_complex(rows.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).type_as(rows)
