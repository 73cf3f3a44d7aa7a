"""Cosmos 3: Qwen3-VL under another name, and an edge model of its own."""

from transformers import (
    Cosmos3EdgeConfig,
    Cosmos3EdgeForConditionalGeneration,
    Cosmos3OmniConfig,
    Cosmos3OmniForConditionalGeneration,
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)

from .case import Case, with_large_weights
from .mrope import PATCH, TOKENS, grids, mrope_text, qwen3_vision


def cosmos3_omni() -> Case:
    config = Cosmos3OmniConfig(
        text_config=Qwen3VLTextConfig(**mrope_text([4, 2, 2])),
        vision_config=Qwen3VLVisionConfig(**qwen3_vision()),
        **TOKENS,
    )
    model = with_large_weights(Cosmos3OmniForConditionalGeneration(config))
    return Case(model, grids(frames_apart=True), videos=True)


def cosmos3_edge() -> Case:
    config = Cosmos3EdgeConfig(
        text_config=mrope_text([4, 2, 2]),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": PATCH,
            "num_patches": 16,
        },
        projector_hidden_size=64,
        **TOKENS,
    )
    model = with_large_weights(Cosmos3EdgeForConditionalGeneration(config))
    return Case(model, grids(frames_apart=True, patch=(3 * PATCH**2,)), videos=True)


CASES = {"cosmos3_omni": cosmos3_omni, "cosmos3_edge": cosmos3_edge}
