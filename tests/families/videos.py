"""Families that were made for videos: frames behind [CLS], or between time stamps."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    Qwen2Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from .case import (
    IMAGE,
    START,
    VIDEO,
    Case,
    Media,
    Sample,
    batch,
    by_kind,
    facts,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .llava import SIDE, TOKENS, clip

FRAMES, MERGE, FRAME_PATCH = 2, 2, 4


def video_llava() -> Case:
    config = VideoLlavaConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**sizes()),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
    )

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        if not sample.video:
            return Media([IMAGE] * TOKENS, noise(generator, 1, 3, SIDE, SIDE))
        clip = noise(generator, 1, FRAMES, 3, SIDE, SIDE)
        return Media([VIDEO] * (TOKENS + 1) * FRAMES, clip)

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        return text | given(**{pixels: stacked(images)}, pixel_values_videos=stacked(videos))

    # earlier releases call them otherwise
    taken = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    pixels = "pixel_values" if "pixel_values" in taken else "pixel_values_images"
    model = with_large_weights(VideoLlavaForConditionalGeneration(config))
    return Case(model, make, videos=True)


def video_llama_3() -> Case:
    config = VideoLlama3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": FRAME_PATCH,
        },
        text_config=Qwen2Config(**sizes()),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        height, width = ((4, 8), (6, 8))[(sample.seed + number) % 2]
        times = FRAMES if sample.video else 1
        frame = [VIDEO if sample.video else IMAGE] * (height * width // MERGE**2)
        pixels = noise(generator, times * height * width, 3 * FRAME_PATCH**2)
        return Media([START, *frame] * times, pixels, torch.tensor([times, height, width]))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        grids = {"image": facts(images), "video": facts(videos)}
        merges = {
            f"{kind}_merge_sizes": torch.full((len(grid),), MERGE)
            for kind, grid in grids.items()
            if grid is not None
        }
        return text | merges | given(
            pixel_values=stacked(images),
            image_grid_thw=grids["image"],
            pixel_values_videos=stacked(videos),
            video_grid_thw=grids["video"],
        )

    model = with_large_weights(VideoLlama3ForConditionalGeneration(config))
    return Case(model, make, videos=True)


CASES = {"video_llava": video_llava, "video_llama_3": video_llama_3}
