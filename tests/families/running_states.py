"""Families whose decoders carry a running state, and can be given a shorter prompt."""

from typing import Any

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from .case import Case, with_large_weights
from .mrope import TOKENS, grids, mrope_text, qwen3_vision

LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": (["linear_attention"] * 2 + ["full_attention"]) * 2,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def qwen3_5(config_class: Any, model_class: Any, **text: Any) -> Case:
    vision = qwen3_vision()
    vision.pop("deepstack_visual_indexes")
    config = config_class(
        text_config=mrope_text([4, 2, 2], **LINEAR, **text), vision_config=vision, **TOKENS
    )
    torch.manual_seed(0)  # decays are drawn, and not replaced below
    model = with_large_weights(model_class(config), gain=1.0)
    return Case(model, grids(frames_apart=True), videos=True)


ENTRY_CASES = {
    "qwen3_5": lambda: qwen3_5(Qwen3_5Config, Qwen3_5ForConditionalGeneration),
    "qwen3_5_moe": lambda: qwen3_5(
        Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, **EXPERTS
    ),
}
