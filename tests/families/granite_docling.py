"""Granite-Docling: tiles of 16 tokens, with a mask of those that are real."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GraniteDoclingConfig, GraniteDoclingForConditionalGeneration

from .case import HIDDEN, IMAGE, PAD, Case, Sample, sizes, with_large_weights
from .llava import SIDE, TOKENS
from .relatives import padded_tiles, tiles


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    made = padded_tiles(tiles(3, TOKENS, marked=True))(samples, padding=padding)
    if "pixel_values" in made:
        made["pixel_attention_mask"] = made["pixel_values"].flatten(2).any(-1)
    return made


def granite_docling() -> Case:
    text = sizes(
        embedding_multiplier=2.0,
        logits_scaling=2.0,
        residual_multiplier=0.7,
        attention_multiplier=0.3,
    )
    config = GraniteDoclingConfig(
        text_config=text,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 4,
            "out_hidden_size": HIDDEN,
            "scale_factor": 2,
            "deepstack_visual_indexes": [0, 1],
            "use_fine_route": False,
        },
        image_token_id=IMAGE,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    return Case(with_large_weights(GraniteDoclingForConditionalGeneration(config)), inputs)


CASES = {"granite_docling": granite_docling}
