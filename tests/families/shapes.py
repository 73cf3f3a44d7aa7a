"""Families whose images differ in shape: any-res packing, Pixtral rows, M-RoPE grids, videos."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
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
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from .case import (
    END,
    HIDDEN,
    IMAGE,
    START,
    VIDEO,
    VOCABULARY,
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


# -- M-RoPE: patches come flat, with a (time, height, width) grid for each image -----------------

MERGE, TEMPORAL, MROPE_PATCH = 2, 2, 4


def _mrope(frames_apart: bool) -> Any:
    """``frames_apart``: a video's frames stand between markers, as Qwen3-VL and GLM-4V do."""

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        height, width = ((4, 6), (6, 8))[(sample.seed + number) % 2]
        times = 2 if sample.video else 1
        patches = times * height * width
        pixels = noise(generator, patches, 3 * TEMPORAL * MROPE_PATCH**2)
        token = VIDEO if sample.video else IMAGE
        frame = [token] * (height * width // MERGE**2)
        row = [START, *frame * times, END]
        if sample.video and frames_apart:
            row = [START, *frame, END] * times
        return Media(row, pixels, torch.tensor([times, height, width]))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        ids = text["input_ids"]
        types = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        return text | given(
            mm_token_type_ids=types,
            pixel_values=stacked(images),
            image_grid_thw=facts(images),
            pixel_values_videos=stacked(videos),
            video_grid_thw=facts(videos),
        )

    return make


def _mrope_text(sections: list[int], **changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10000.0}
    return sizes(rope_parameters=rope, **changes)


_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
_PATCHES = {
    "patch_size": MROPE_PATCH,
    "temporal_patch_size": TEMPORAL,
    "spatial_merge_size": MERGE,
    "num_heads": 2,
    "depth": 2,
}


def qwen2_vl() -> Case:
    config = Qwen2VLConfig(
        text_config=_mrope_text([2, 2, 2], head_dim=12),
        vision_config={"embed_dim": 32, "hidden_size": HIDDEN, **_PATCHES},
        **_TOKENS,
    )
    model = with_large_weights(Qwen2VLForConditionalGeneration(config))
    return Case(model, _mrope(frames_apart=False), videos=True)


def qwen2_5_vl() -> Case:
    config = Qwen2_5_VLConfig(
        text_config=_mrope_text([2, 2, 2], head_dim=12),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            **_PATCHES,
        },
        **_TOKENS,
    )
    model = with_large_weights(Qwen2_5_VLForConditionalGeneration(config))
    return Case(model, _mrope(frames_apart=False), videos=True)


def _qwen3_vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        **_PATCHES,
    }


def qwen3_vl() -> Case:
    config = Qwen3VLConfig(
        text_config=_mrope_text([4, 2, 2]), vision_config=_qwen3_vision(), **_TOKENS
    )
    model = with_large_weights(Qwen3VLForConditionalGeneration(config))
    return Case(model, _mrope(frames_apart=True), videos=True)


def qwen3_vl_moe() -> Case:
    text = _mrope_text([4, 2, 2], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    config = Qwen3VLMoeConfig(text_config=text, vision_config=_qwen3_vision(), **_TOKENS)
    model = with_large_weights(Qwen3VLMoeForConditionalGeneration(config))
    return Case(model, _mrope(frames_apart=True), videos=True)


def glm4v() -> Case:
    config = Glm4vConfig(
        text_config=_mrope_text([2, 1, 1], partial_rotary_factor=0.5),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "image_size": 32,
            **_PATCHES,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=104,
        video_end_token_id=105,
    )
    model = with_large_weights(Glm4vForConditionalGeneration(config))
    return Case(model, _mrope(frames_apart=False), never=(*range(IMAGE, VOCABULARY),))


CASES = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "llava_next_video": llava_next_video,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "lighton_ocr": lighton_ocr,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "glm4v": glm4v,
}
