"""Families whose decoders carry a running state, and can be given a shorter prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Siglip2VisionConfig,
)

from .case import (
    IMAGE,
    Case,
    Media,
    Sample,
    batch,
    facts,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .mrope import MERGE, PATCH, TOKENS, grids, mrope_text, qwen3_vision

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


CONVOLUTIONS = ["conv", "full_attention", "conv"] * 2
MOST = 48
"""Patches of the largest image."""


def unpadded(sample: Sample, number: int, generator: torch.Generator) -> Media:
    height, width = ((4, 6), (6, 8))[(sample.seed + number) % 2]
    pixels = torch.zeros(1, MOST, 3 * PATCH**2)
    pixels[:, : height * width] = noise(generator, 1, height * width, 3 * PATCH**2)
    return Media([IMAGE] * (height * width // MERGE**2), pixels, torch.tensor([height, width]))


def lfm2_inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, unpadded, padding)
    shapes = facts(shown)
    counts = None if shapes is None else shapes.prod(1, keepdim=True)
    return text | given(
        pixel_values=stacked(shown),
        spatial_shapes=shapes,
        pixel_attention_mask=None if counts is None else (torch.arange(MOST) < counts).long(),
    )


def lfm2_vl() -> Case:
    text = sizes(layer_types=CONVOLUTIONS, block_auto_adjust_ff_dim=False)
    text.pop("head_dim")
    config = Lfm2VlConfig(
        text_config=Lfm2Config(**text),
        vision_config=Siglip2VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_patches=64,
            patch_size=PATCH,
        ),
        image_token_id=IMAGE,
        projector_hidden_size=32,
        downsample_factor=MERGE,
    )
    model = with_large_weights(Lfm2VlForConditionalGeneration(config), gain=1.0)
    return Case(model, lfm2_inputs)


ENTRY_CASES = {
    "lfm2_vl": lfm2_vl,
    "qwen3_5": lambda: qwen3_5(Qwen3_5Config, Qwen3_5ForConditionalGeneration),
    "qwen3_5_moe": lambda: qwen3_5(
        Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, **EXPERTS
    ),
}
