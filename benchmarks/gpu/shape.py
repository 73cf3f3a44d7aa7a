"""LLaVA-1.5-7B's shape with random weights, the same in small, and prompts for either."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.tiny_base import SPECIAL, WORDS

IMAGE, PATCH = SPECIAL.index("<image>"), 14
FIRST_WORD = len(SPECIAL)
TEXT = 64
"""Words after the image."""


@dataclass(frozen=True)
class Shape:
    """Sizes of decoder and vision tower: by default CLIP-L/336 and Llama-7B.

    The decoder has as many layers whatever its width, so that published stages stand where they
    were published.
    """

    width: int = 4096
    heads: int = 32
    vision_width: int = 1024
    vision_layers: int = 24
    side: int = 336
    vocabulary: int = 32064
    layers: int = 32

    @property
    def visual_tokens(self) -> int:
        return (self.side // PATCH) ** 2


SMALL = Shape(width=64, heads=2, vision_width=32, vision_layers=2, side=84, vocabulary=64)


def shape_for(tiny: bool) -> Shape:
    return SMALL if tiny else Shape()


def configuration(shape: Shape) -> LlavaConfig:
    """Ids of the special tokens are those of the processor in tests/tiny_base.py."""
    text = LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.width * 43 // 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=max(1, shape.vision_width // 64),
        image_size=shape.side,
        patch_size=PATCH,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)


def random_model(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """The same weights each time on one device; drawn there, which takes seconds on a GPU."""
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(configuration(shape), dtype=dtype)
    return model.eval().requires_grad_(False)


def prompts(shape: Shape, batch: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """One image and ``TEXT`` words a sample."""
    generator = torch.Generator().manual_seed(1)
    last = FIRST_WORD + len(WORDS)
    words = torch.randint(FIRST_WORD, last, (batch, TEXT), generator=generator)
    image = torch.full((batch, shape.visual_tokens), IMAGE)
    ids = torch.cat([torch.ones(batch, 1).long(), image, words], 1)
    pixels = torch.randn(batch, 3, shape.side, shape.side, generator=generator)
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": pixels.to(device, dtype),
    }
