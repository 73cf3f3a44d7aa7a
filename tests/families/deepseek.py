"""DeepSeek-VL, its hybrid with a SAM tower beside, DeepSeek-OCR 2, and Janus."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    SamVisionConfig,
)

from .case import (
    HIDDEN,
    IMAGE,
    LAYERS,
    Case,
    Media,
    Sample,
    batch,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .llava import PATCH, SIDE, TOKENS, inputs
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


def deepseek_ocr2() -> Case:
    """As many queries as a square has tokens, where it has 144 or 256 by itself."""
    config = DeepseekOcr2Config(
        vision_config={
            "sam_config": {
                "hidden_size": 32,
                "output_channels": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": PATCH // 2,
                "window_size": 4,
                "global_attn_indexes": [1],
                "downsample_channels": [16, 32],
            },
            "encoder_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
        },
        text_config=sizes(
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            moe_intermediate_size=32,
            mlp_layer_types=["dense"] + ["sparse"] * (LAYERS - 1),
        ),
        image_token_id=IMAGE,
    )
    model = DeepseekOcr2ForConditionalGeneration(config)
    model.model.vision_tower.query_768_resolution = torch.nn.Embedding(TOKENS, 32)

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        return Media([IMAGE] * (TOKENS + 1), noise(generator, 1, 3, SIDE, SIDE))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        return text | given(pixel_values=stacked(shown))

    return Case(with_large_weights(model), make)


CASES = {
    "deepseek_ocr2": deepseek_ocr2,
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "janus": janus,
}
