"""Gemma 3n: a convolution stands in for its tower, which would need another library."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Gemma3nAudioConfig,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nTextConfig,
    Gemma3nVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .case import (
    IMAGE,
    LAYERS,
    VOCABULARY,
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

SIDE, PATCH, WIDTH = 32, 8, 32
TOKENS = (SIDE // PATCH) ** 2
OFFSET = 110
"""Where the vocabulary of images begins, behind what samples hold; audio has the last words."""


def square(sample: Sample, number: int, generator: torch.Generator) -> Media:
    return Media([IMAGE] * TOKENS, noise(generator, 1, 3, SIDE, SIDE))


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, square, padding)
    return text | given(pixel_values=stacked(shown))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values))


made = AutoModel.from_config


def part(config: Any) -> Any:
    return Tower() if isinstance(config, Gemma3nVisionConfig) else made(config)


def gemma3n() -> Case:
    """The last two layers reuse the keys of the two before them."""
    tower = Gemma3nVisionConfig(hidden_size=WIDTH, vocab_size=8, vocab_offset=OFFSET)
    text = Gemma3nTextConfig(
        **sizes(
            sliding_window=8,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            activation_sparsity_pattern=[0.0] * LAYERS,
        )
    )
    audio = Gemma3nAudioConfig(
        vocab_size=8,
        vocab_offset=OFFSET + 8,
        hidden_size=32,
        conf_num_attention_heads=2,
        conf_num_hidden_layers=1,
        sscp_conv_channel_size=(8, 8),
    )
    config = Gemma3nConfig(
        text_config=text,
        vision_config=tower,
        audio_config=audio,
        image_token_id=IMAGE,
        vision_soft_tokens_per_image=TOKENS,
    )
    with patch.object(AutoModel, "from_config", part):
        model = Gemma3nForConditionalGeneration(config)
    return Case(with_large_weights(model), inputs, never=(*range(IMAGE, VOCABULARY),))


ENTRY_CASES = {"gemma3n": gemma3n}
