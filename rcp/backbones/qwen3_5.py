"""Qwen3.5: M-RoPE, three layers of linear attention to one of full attention."""

from typing import Any

from torch import Tensor, nn

from rcp.backbones.before_decoder import BeforeDecoder
from rcp.backbones.qwen_vl import MRope
from rcp.backbones.refused import RUNNING_STATE


class Qwen3_5Decoder(BeforeDecoder):
    only_before = RUNNING_STATE

    def blocks(self, layer: int) -> tuple[nn.Module, nn.Module]:
        decoder_layer: Any = self.layers[layer]
        mixer = decoder_layer.self_attn if self.attends(layer) else decoder_layer.linear_attn
        return mixer, decoder_layer.mlp

    def _heads(self, attention: Any, which: str, rows: Tensor) -> Tensor:
        """Each head's queries are projected together with its output gate."""
        if which == "k":
            return super()._heads(attention, which, rows)
        projected = attention.q_proj(rows).unflatten(-1, (-1, 2 * attention.head_dim))
        return attention.q_norm(projected[..., : attention.head_dim]).transpose(1, 2)


class Qwen3_5(Qwen3_5Decoder, MRope):
    model_types = ("qwen3_5", "qwen3_5_moe")
    title = "Qwen3.5"
