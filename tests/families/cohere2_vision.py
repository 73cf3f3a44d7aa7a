"""Command A Vision: one square image of 16 tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    SiglipVisionConfig,
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

SIDE, PATCH = 32, 4


def square(sample: Sample, number: int, generator: torch.Generator) -> Media:
    return Media([IMAGE] * (SIDE // PATCH // 2) ** 2, noise(generator, 1, 3, SIDE, SIDE))


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, square, padding)
    return text | given(pixel_values=stacked(shown))


def cohere2_vision() -> Case:
    config = Cohere2VisionConfig(
        text_config=Cohere2Config(**sizes(sliding_window=8, sliding_window_pattern=3)),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        image_token_id=IMAGE,
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    return Case(with_large_weights(Cohere2VisionForConditionalGeneration(config)), inputs)


CASES = {"cohere2_vision": cohere2_vision}
