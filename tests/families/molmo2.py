"""Molmo 2: a crop of 8 tokens for the whole image, one of 16 for its detail, columns marked."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from .case import (
    END,
    HIDDEN,
    IMAGE,
    START,
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

ACROSS, PATCH, FRAMES = 4, 4, 2
COLUMN = 104
WHOLE = torch.arange(ACROSS**2).view(-1, 2)
DETAIL = torch.stack([torch.arange(ACROSS**2), torch.full((ACROSS**2,), -1)], 1)
"""Which two patches of a crop a token is pooled from; -1 is none."""


def rows(count: int, length: int) -> list[int]:
    return [START, *[*[IMAGE] * length, COLUMN] * count, END]


def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
    """A frame of a video is a crop of the whole."""
    pixels = noise(generator, 2, ACROSS**2, 3 * PATCH**2)
    whole = rows(ACROSS, ACROSS // 2)
    return Media(whole * FRAMES if sample.video else whole + rows(ACROSS, ACROSS), pixels)


def pooling(kinds: Sequence[Tensor], count: int) -> Tensor:
    """Which patches of all ``count`` images' crops each token is pooled from."""
    crops = [kind + ACROSS**2 * (kind >= 0) * at for at, kind in enumerate([*kinds] * count)]
    return torch.cat(crops)


def inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, media, padding)
    images, videos = (stacked(found) for found in by_kind(samples, shown))
    made = {"mm_token_type_ids": (text["input_ids"] == IMAGE).long()}
    if images is not None:
        count = len(images) // 2
        made["image_token_pooling"] = pooling((WHOLE, DETAIL), count)
        made["image_grids"] = torch.tensor([[ACROSS, ACROSS // 2, ACROSS, ACROSS]] * count)
    if videos is not None:
        count = len(videos) // FRAMES
        made["video_token_pooling"] = pooling([WHOLE] * FRAMES, count)
        made["video_grids"] = torch.tensor([[FRAMES, ACROSS, ACROSS // 2]] * count)
    return text | made | given(pixel_values=images, pixel_values_videos=videos)


def molmo2(**text: object) -> Case:
    config = Molmo2Config(
        text_config=sizes(additional_vocab_size=0, **text),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [ACROSS * PATCH, ACROSS * PATCH],
            "patch_size": PATCH,
        },
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "text_hidden_size": HIDDEN,
        },
        image_patch_id=IMAGE,
        image_start_token_id=START,
        image_end_token_id=END,
        low_res_image_start_token_id=105,
        frame_start_token_id=106,
        frame_end_token_id=107,
    )
    model = with_large_weights(Molmo2ForConditionalGeneration(config))
    never = tuple(range(IMAGE, VOCABULARY))
    return Case(model, inputs, never=never, videos=True, mixed=False)


CASES = {
    "molmo2": molmo2,
    "molmo2-olmo": lambda: molmo2(qk_norm_type="olmo", norm_after=True),
}
