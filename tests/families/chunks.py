"""Llama 4: square tiles of 16 tokens, chunks shorter than a prompt."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    Llama4VisionConfig,
)

from .case import (
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

SIDE, PATCH = 32, 4


def square(sample: Sample, number: int, generator: torch.Generator) -> Media:
    return Media([IMAGE] * (SIDE // PATCH // 2) ** 2, noise(generator, 1, 3, SIDE, SIDE))


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, square, padding)
    return text | given(pixel_values=stacked(shown))


def llama4() -> Case:
    config = Llama4Config(
        text_config=Llama4TextConfig(
            **sizes(
                intermediate_size_mlp=96,
                attention_chunk_size=11,
                no_rope_layers=[1, 1, 0] * (LAYERS // 3),
                num_local_experts=4,
                interleave_moe_layer_step=2,
            )
        ),
        vision_config=Llama4VisionConfig(
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
        ),
        image_token_index=IMAGE,
    )
    return Case(with_large_weights(Llama4ForConditionalGeneration(config)), inputs)


ENTRY_CASES = {"llama4": llama4}
