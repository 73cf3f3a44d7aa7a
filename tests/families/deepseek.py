"""DeepSeek-VL, its hybrid with a SAM tower beside, and Janus: one square image of 16 tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    SamVisionConfig,
)

from .case import HIDDEN, IMAGE, Case, Sample, sizes, with_large_weights
from .llava import PATCH, SIDE, inputs
from .relatives import siglip


def deepseek_vl() -> Case:
    config = DeepseekVLConfig(
        vision_config=siglip(), text_config=LlamaConfig(**sizes()), image_token_id=IMAGE
    )
    return Case(with_large_weights(DeepseekVLForConditionalGeneration(config)), inputs)


def deepseek_vl_hybrid() -> Case:
    detail = SamVisionConfig(
        hidden_size=32,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=2 * SIDE,
        patch_size=PATCH,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=64,
    )
    config = DeepseekVLHybridConfig(
        vision_config=siglip(),
        high_res_vision_config=detail,
        text_config=LlamaConfig(**sizes()),
        image_token_id=IMAGE,
    )

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        made = inputs(samples, padding=padding)
        if "pixel_values" in made:
            larger = torch.nn.functional.interpolate(made["pixel_values"], scale_factor=2)
            made["high_res_pixel_values"] = larger
        return made

    return Case(with_large_weights(DeepseekVLHybridForConditionalGeneration(config)), make)


def janus() -> Case:
    config = JanusConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": HIDDEN,
            "mlp_ratio": 2.0,
            "num_image_tokens": 16,
        },
        vq_config={  # draws images, which nobody asks of it here
            "embed_dim": 4,
            "num_embeddings": 8,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 8,
            "image_token_embed_dim": HIDDEN,
        },
        text_config=LlamaConfig(**sizes()),
        image_token_id=IMAGE,
    )
    return Case(with_large_weights(JanusForConditionalGeneration(config)), inputs)


CASES = {
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "janus": janus,
}
