"""Step 3.7: a view of 4 tokens, and for every second image two views of detail before it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Step3p7Config, Step3p7ForConditionalGeneration

from .case import (
    END,
    IMAGE,
    LAYERS,
    START,
    Case,
    Media,
    Sample,
    batch,
    facts,
    given,
    noise,
    sizes,
    with_large_weights,
)

SIDE, PATCH, VIEWS = 32, 4, 2
TOKENS = (SIDE // PATCH // 4) ** 2


def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
    """The pixels of all views, detail first, and how many of them are detail."""
    detail = VIEWS * ((sample.seed + number) % 2)
    pixels = noise(generator, detail + 1, 3, SIDE, SIDE)
    return Media([START, *[IMAGE] * TOKENS * (detail + 1), END], pixels, torch.tensor(detail))


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, media, padding)
    views = [image.pixels for row in shown for image in row]
    if not views:
        return text
    detail = torch.cat([pixels[:-1] for pixels in views])
    return text | given(
        pixel_values=torch.stack([pixels[-1] for pixels in views]),
        pixel_values_local=detail if len(detail) else None,
        num_local_patches=facts(shown),
    )


def step3p7(windows: bool) -> Case:
    """Layers of windows have more heads than the others."""
    kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
    text: dict[str, Any] = {"layer_types": kinds, "num_sliding_attention_heads": 6}
    config = Step3p7Config(
        text_config=sizes(
            n_routed_experts=2,
            num_local_experts=2,  # every token visits both
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            share_expert_dim=32,
            sliding_window=8,
            mlp_layer_types=["dense"] * 2 + ["sparse"] * (LAYERS - 2),
            **text if windows else {},
        ),
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "mlp_ratio": 2.0,
            "max_position_embeddings": (SIDE // PATCH) ** 2,
        },
        image_token_id=IMAGE,
    )
    return Case(with_large_weights(Step3p7ForConditionalGeneration(config)), inputs)


CASES = {
    "step3p7": lambda: step3p7(windows=False),
    "step3p7-window": lambda: step3p7(windows=True),
}
