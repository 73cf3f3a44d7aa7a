"""Families whose images differ in shape: any-res packing, Pixtral rows, videos."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen3Config,
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
    facts,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .llava import PATCH, SIDE, clip
from .relatives import siglip

GRID = SIDE // PATCH
PINPOINTS = [[SIDE, SIDE * 2], [SIDE * 2, SIDE]]
BREAK = END
FRAMES = 3


# -- LLaVA-NeXT and OneVision: the base image, two tiles, newline vectors ------------------------


def _any_res(sample: Sample, number: int, generator: torch.Generator) -> Media:
    """A wide image fills both tiles; a tall one is unpadded by a column on either side."""
    height, width = ((32, 64), (64, 20))[(sample.seed + number) % 2]
    rows, columns = (GRID, 2 * GRID) if width > height else (2 * GRID, GRID - 2)
    tokens = GRID * GRID + rows * (columns + 1)
    return Media(
        [IMAGE] * tokens, noise(generator, 1, 3, 3, SIDE, SIDE), torch.tensor([height, width])
    )


def _any_res_inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    text, shown = batch(samples, _any_res, padding)
    return text | given(pixel_values=stacked(shown), image_sizes=facts(shown))


def _images_and_videos(newlines: int) -> Any:
    """``newlines``: so many stand behind a video's pooled frames."""

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        if not sample.video:
            return _any_res(sample, number, generator)
        tokens = FRAMES * (GRID // 2) ** 2 + newlines
        return Media([VIDEO] * tokens, noise(generator, 1, FRAMES, 3, SIDE, SIDE))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        return text | given(
            pixel_values=stacked(images),
            image_sizes=facts(images),
            pixel_values_videos=stacked(videos),
        )

    return make


def llava_next() -> Case:
    config = LlavaNextConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**sizes()),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
    )
    return Case(with_large_weights(LlavaNextForConditionalGeneration(config)), _any_res_inputs)


def llava_onevision() -> Case:
    config = LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=Qwen2Config(**sizes()),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = with_large_weights(LlavaOnevisionForConditionalGeneration(config))
    return Case(model, _images_and_videos(newlines=1), videos=True)


def llava_next_video() -> Case:
    config = LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**sizes()),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
    )
    model = with_large_weights(LlavaNextVideoForConditionalGeneration(config))
    return Case(model, _images_and_videos(newlines=0), videos=True)


# -- Pixtral: rows of patches with a break token after each --------------------------------------


def _pixtral() -> PixtralVisionConfig:
    return PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=2 * SIDE,
        patch_size=PATCH,
    )


def _rows(merge: int, broken: bool = True) -> Any:
    """``broken``: a break token stands after each row, and another one after the image."""

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        height, width = ((32, 48), (48, 32))[(sample.seed + number) % 2]
        columns, rows = width // PATCH // merge, height // PATCH // merge
        tokens = ([IMAGE] * columns + [BREAK] * broken) * rows
        pixels = torch.zeros(1, 3, 48, 48)
        pixels[..., :height, :width] = noise(generator, 1, 3, height, width)
        if broken:
            tokens[-1] = START
        return Media(tokens, pixels, torch.tensor([height, width]))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        return text | given(pixel_values=stacked(shown), image_sizes=facts(shown))

    return make


def pixtral() -> Case:
    config = LlavaConfig(
        vision_config=_pixtral(),
        text_config=MistralConfig(**sizes()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return Case(with_large_weights(LlavaForConditionalGeneration(config)), _rows(merge=1))


def lighton_ocr() -> Case:
    config = LightOnOcrConfig(
        vision_config=_pixtral(), text_config=Qwen3Config(**sizes()), image_token_id=IMAGE
    )
    model = with_large_weights(LightOnOcrForConditionalGeneration(config))
    return Case(model, _rows(merge=2, broken=False))


def mistral3() -> Case:
    config = Mistral3Config(
        vision_config=_pixtral(),
        text_config=MistralConfig(**sizes()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        spatial_merge_size=2,
    )
    return Case(with_large_weights(Mistral3ForConditionalGeneration(config)), _rows(merge=2))


CASES = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "llava_next_video": llava_next_video,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "lighton_ocr": lighton_ocr,
}
