"""Modules shaped as vLLM shapes them, over those of a LLaVA of transformers."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """Queries, keys and values in one product; positions in place of (cos, sin)."""

    def __init__(self, attention: Any, rotary: Any = None) -> None:
        super().__init__()
        self.own = attention
        self.head_dim = attention.head_dim
        self.rotary = rotary
        self.q_size = attention.q_proj.out_features
        self.kv_size = attention.k_proj.out_features
        self.scaling = getattr(attention, "scaling", None)
        self.num_heads_per_partition = self.q_size // self.head_dim

    def qkv_proj(self, rows: Tensor) -> tuple[Tensor, None]:
        own = self.own
        return torch.cat([own.q_proj(rows), own.k_proj(rows), own.v_proj(rows)], dim=-1), None

    def rotary_emb(self, positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(query[None], positions[None])

        def turned(flat: Tensor) -> Tensor:
            heads = flat.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
            half = self.head_dim // 2
            rotated = torch.cat([-heads[..., half:], heads[..., :half]], dim=-1)
            return (heads * cos[0] + rotated * sin[0]).transpose(0, 1).flatten(-2)

        return turned(query), turned(key)


class EngineModel(nn.Module):
    """``host`` as vLLM would have built it."""

    def __init__(self, host: Any) -> None:
        super().__init__()
        self.config = host.config
        decoder, tower = host.model.language_model, host.model.vision_tower
        layers = nn.ModuleList(_layer(one, decoder.rotary_emb) for one in decoder.layers)
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.layers = layers
        self.language_model.model.embed_tokens = decoder.embed_tokens
        encoder = getattr(tower, "vision_model", tower)
        last = SimpleNamespace(self_attn=FusedAttention(encoder.encoder.layers[-1].self_attn))
        self.vision_tower = SimpleNamespace(
            vision_model=SimpleNamespace(
                embeddings=encoder.embeddings, encoder=SimpleNamespace(layers=[last])
            )
        )
        self.multi_modal_projector = host.model.multi_modal_projector


def _layer(layer: Any, rotary: Any) -> nn.Module:
    made = nn.Module()
    made.input_layernorm = layer.input_layernorm
    made.self_attn = FusedAttention(layer.self_attn, rotary)
    return made
