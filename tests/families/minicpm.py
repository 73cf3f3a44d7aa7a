"""MiniCPM-V 4.6: patches of all images in one row, four by four a token."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    Qwen3_5TextConfig,
)

from .case import (
    END,
    IMAGE,
    START,
    VIDEO,
    Case,
    Media,
    Sample,
    batch,
    by_kind,
    given,
    noise,
    sizes,
    with_large_weights,
)
from .running_states import LINEAR

PATCH, MERGED = 4, 4


def slices(sample: Sample, number: int, generator: torch.Generator) -> Media:
    height, width = ((8, 12), (12, 16))[(sample.seed + number) % 2]
    times = 2 if sample.video else 1
    pixels = noise(generator, 1, 3, PATCH, times * height * width * PATCH)
    token = VIDEO if sample.video else IMAGE
    frame = [START, *[token] * (height * width // MERGED**2), END]
    return Media(frame * times, pixels, torch.tensor([[height, width]] * times))


def packed(shown: list[list[Media]]) -> tuple[Tensor | None, Tensor | None]:
    """The pixels of all images, one behind the other, and the sizes of each."""
    images = [image for row in shown for image in row]
    if not images:
        return None, None
    return torch.cat([i.pixels for i in images], 3), torch.cat([i.facts for i in images])


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, slices, padding)
    images, videos = by_kind(samples, shown)
    pixels, targets = packed(images)
    frames, of_frames = packed(videos)
    return text | given(
        pixel_values=pixels,
        target_sizes=targets,
        pixel_values_videos=frames,
        target_sizes_videos=of_frames,
    )


def minicpm(
    config_class: Any, model_class: Any, make: Callable[..., Any] = inputs, **tokens: int
) -> Case:
    config = config_class(
        text_config=Qwen3_5TextConfig(**sizes(**LINEAR)),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8 * PATCH,
            "patch_size": PATCH,
        },
        insert_layer_id=0,
        downsample_mode="16x",  # "4x" by default in one of them
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        **tokens,
    )
    torch.manual_seed(0)  # decays are drawn, and not replaced below
    # with larger weights padding alone, without a plug-in, changes the last bits beyond tolerance
    return Case(with_large_weights(model_class(config), gain=0.8), make, videos=True)


ENTRY_CASES = {
    "minicpmv4_6": lambda: minicpm(MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration),
}
