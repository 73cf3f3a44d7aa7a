"""Gemma 4, with a tower and without: 16 tokens an image or frame, coordinates of patches."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
    Gemma4VisionConfig,
)

from .case import (
    END,
    IMAGE,
    START,
    VIDEO,
    VOCABULARY,
    Case,
    Media,
    Sample,
    batch,
    by_kind,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)

POOLED, PATCH, FRAMES = 2, 4, 2
COUNTED = "num_frames_per_video" in inspect.signature(
    Gemma4ForConditionalGeneration.forward
).parameters
"""Whether frames are counted; earlier releases took clips of equal length."""
ACROSS = 4
"""Tokens of one side of an image or frame."""


def patches(side: int, width: int) -> Callable[..., dict[str, Tensor]]:
    """Inputs of ``side`` x ``side`` patches of ``width`` values each."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([x, y], -1).flatten(0, 1)

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        token, times = (VIDEO, FRAMES) if sample.video else (IMAGE, 1)
        pixels = noise(generator, times, side**2, width)
        return Media([START, *[token] * ACROSS**2, END] * times, pixels)

    def coordinates(pixels: Tensor | None) -> Tensor | None:
        return None if pixels is None else places.expand(len(pixels), -1, -1)

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        ids, pixels, frames = text["input_ids"], stacked(images), stacked(videos)
        places_of_frames = coordinates(frames)
        clips = [len(clip.pixels) for row in videos for clip in row]
        if clips and not COUNTED:
            frames, places_of_frames = (
                value.unflatten(0, (-1, FRAMES)) for value in (frames, places_of_frames)
            )
        return text | given(
            mm_token_type_ids=(ids == IMAGE).long() + 2 * (ids == VIDEO).long(),
            pixel_values=pixels,
            image_position_ids=coordinates(pixels),
            pixel_values_videos=frames,
            video_position_ids=places_of_frames,
            num_frames_per_video=torch.tensor(clips) if clips and COUNTED else None,
        )

    return make


TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "audio_token_id": 104,
    "boi_token_id": START,
    "eoi_token_id": END,
    "boa_token_id": 105,
    "eoa_token_index": 106,
}
NEVER = tuple(range(IMAGE, VOCABULARY))


def text() -> dict[str, Any]:
    """Layers of full attention have one head of another width, and keys that are values."""
    return sizes(
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        global_head_dim=32,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        use_bidirectional_attention="vision",
    )


SHARED = {
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "use_bidirectional_attention": None,
}
"""As in its small sizes."""


def gemma4(**changes: Any) -> Case:
    config = Gemma4Config(
        text_config=Gemma4TextConfig(**text() | changes),
        vision_config=Gemma4VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pooling_kernel_size=POOLED,
            patch_size=PATCH,
            position_embedding_size=16,
        ),
        audio_config=None,
        **TOKENS,
    )
    model = with_large_weights(Gemma4ForConditionalGeneration(config))
    inputs = patches(ACROSS * POOLED, 3 * PATCH**2)
    return Case(model, inputs, never=NEVER, videos=True)


def gemma4_unified() -> Case:
    """Without a tower: patches are merged before they are embedded."""
    config = Gemma4UnifiedConfig(
        text_config=Gemma4UnifiedTextConfig(**text()),
        vision_config=Gemma4UnifiedVisionConfig(
            patch_size=PATCH,
            pooling_kernel_size=POOLED,
            mm_embed_dim=32,
            mm_posemb_size=ACROSS,
            output_proj_dims=32,
        ),
        audio_config=None,
        **TOKENS,
    )
    model = with_large_weights(Gemma4UnifiedForConditionalGeneration(config))
    inputs = patches(ACROSS, 3 * (PATCH * POOLED) ** 2)
    return Case(model, inputs, never=NEVER, videos=True)


CASES = {"gemma4": gemma4, "gemma4_unified": gemma4_unified}
ENTRY_CASES = {"gemma4_shared": lambda: gemma4(**SHARED)}
