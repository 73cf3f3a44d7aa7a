"""LLaVA-1.5 over every decoder whose attention differs, and its near relatives."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from .case import (
    IMAGE,
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

SIDE, PATCH = 32, 8
TOKENS = (SIDE // PATCH) ** 2


def clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=32,
    )


def square(sample: Sample, number: int, generator: torch.Generator) -> Media:
    return Media([IMAGE] * TOKENS, noise(generator, 1, 3, SIDE, SIDE))


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, square, padding)
    return text | given(pixel_values=stacked(shown))


def llava(decoder: PreTrainedConfig) -> Case:
    config = LlavaConfig(
        vision_config=clip(), text_config=decoder, image_token_id=IMAGE, vision_feature_layer=-1
    )
    torch.manual_seed(0)
    return Case(with_large_weights(LlavaForConditionalGeneration(config)), inputs)


CASES = {
    "llava-llama": lambda: llava(LlamaConfig(**sizes())),
    "llava-mistral": lambda: llava(MistralConfig(**sizes(sliding_window=None))),
    "llava-mistral-window": lambda: llava(MistralConfig(**sizes(sliding_window=8))),
    "llava-qwen2": lambda: llava(Qwen2Config(**sizes())),
    "llava-qwen2-window": lambda: llava(
        Qwen2Config(**sizes(use_sliding_window=True, sliding_window=8, max_window_layers=2))
    ),
    "llava-qwen3": lambda: llava(Qwen3Config(**sizes())),
}
