"""Families that are given patches flat, with a (time, height, width) grid for each image."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    Exaone4Config,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    GlmgaConfig,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
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

Inputs = Callable[..., dict[str, Tensor]]
MERGE, TEMPORAL, PATCH = 2, 2, 4


def grids(
    frames_apart: bool,
    *,
    typed: bool = True,
    video: int = VIDEO,
    patch: tuple[int, ...] = (3 * TEMPORAL * PATCH**2,),
) -> Inputs:
    """``frames_apart``: a video's frames stand between markers, as in Qwen3-VL.

    ``typed``: the forward is told which tokens are images and which videos. ``video``: the token
    of a video. ``patch``: the shape of a patch's pixels.
    """

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        height, width = ((4, 6), (6, 8))[(sample.seed + number) % 2]
        times = 2 if sample.video else 1
        pixels = noise(generator, times * height * width, *patch)
        frame = [video if sample.video else IMAGE] * (height * width // MERGE**2)
        row = [START, *frame * times, END]
        if sample.video and frames_apart:
            row = [START, *frame, END] * times
        return Media(row, pixels, torch.tensor([times, height, width]))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        kinds = torch.tensor([[1 + sample.video] for sample in samples])
        types = torch.isin(text["input_ids"], torch.tensor([IMAGE, video])) * kinds
        return text | given(
            mm_token_type_ids=types if typed else None,
            pixel_values=stacked(images),
            image_grid_thw=facts(images),
            pixel_values_videos=stacked(videos),
            video_grid_thw=facts(videos),
        )

    return make


def mrope_text(sections: list[int], **changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10000.0}
    return sizes(rope_parameters=rope, **changes)


TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
PATCHES = {
    "patch_size": PATCH,
    "temporal_patch_size": TEMPORAL,
    "spatial_merge_size": MERGE,
    "num_heads": 2,
    "depth": 2,
}


def qwen2_vl() -> Case:
    config = Qwen2VLConfig(
        text_config=mrope_text([2, 2, 2], head_dim=12),
        vision_config={"embed_dim": 32, "hidden_size": HIDDEN, **PATCHES},
        **TOKENS,
    )
    model = with_large_weights(Qwen2VLForConditionalGeneration(config))
    return Case(model, grids(frames_apart=False), videos=True)


def qwen2_5_vl() -> Case:
    config = Qwen2_5_VLConfig(
        text_config=mrope_text([2, 2, 2], head_dim=12),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            **PATCHES,
        },
        **TOKENS,
    )
    model = with_large_weights(Qwen2_5_VLForConditionalGeneration(config))
    return Case(model, grids(frames_apart=False), videos=True)


def qwen3_vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        **PATCHES,
    }


def qwen3_vl() -> Case:
    config = Qwen3VLConfig(
        text_config=mrope_text([4, 2, 2]), vision_config=qwen3_vision(), **TOKENS
    )
    model = with_large_weights(Qwen3VLForConditionalGeneration(config))
    return Case(model, grids(frames_apart=True), videos=True)


def qwen3_vl_moe() -> Case:
    text = mrope_text([4, 2, 2], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    config = Qwen3VLMoeConfig(text_config=text, vision_config=qwen3_vision(), **TOKENS)
    model = with_large_weights(Qwen3VLMoeForConditionalGeneration(config))
    return Case(model, grids(frames_apart=True), videos=True)


def glm(config_class: Any, model_class: Any, sections: list[int], **text: Any) -> Case:
    """A video's frames are images to it, but for their type."""
    config = config_class(
        text_config=mrope_text(sections, **text),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "image_size": 32,
            **PATCHES,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=104,
        video_end_token_id=105,
    )
    return Case(
        with_large_weights(model_class(config)),
        grids(frames_apart=True, video=IMAGE),
        never=(*range(IMAGE, VOCABULARY),),
        videos=True,
        mixed=False,
    )


def paddleocr_vl() -> Case:
    config = PaddleOCRVLConfig(
        text_config=mrope_text([4, 2, 2]),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": PATCH,
        },
        **TOKENS,
    )
    model = with_large_weights(PaddleOCRVLForConditionalGeneration(config))
    return Case(model, grids(frames_apart=False, patch=(3, PATCH, PATCH)))


def exaone4_5() -> Case:
    config = Exaone4_5_Config(
        text_config=Exaone4Config(**sizes(sliding_window=8, sliding_window_pattern=3)),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "num_key_value_heads": 1,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            **PATCHES,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = with_large_weights(Exaone4_5_ForConditionalGeneration(config))
    return Case(model, grids(frames_apart=False, typed=False), videos=True)


PARTIAL = {"partial_rotary_factor": 0.5}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 2,
}

CASES = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "glm4v": lambda: glm(Glm4vConfig, Glm4vForConditionalGeneration, [2, 1, 1], **PARTIAL),
    "glm4v_moe": lambda: glm(
        Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, [2, 1, 1], **PARTIAL, **EXPERTS
    ),
    "glm46v": lambda: glm(Glm46VConfig, Glm46VForConditionalGeneration, [2, 1, 1], **PARTIAL),
    "glmga": lambda: glm(GlmgaConfig, Glm46VForConditionalGeneration, [2, 1, 1], **PARTIAL),
    "glm_ocr": lambda: glm(GlmOcrConfig, GlmOcrForConditionalGeneration, [4, 2, 2]),
    "paddleocr_vl": paddleocr_vl,
    "exaone4_5": exaone4_5,
}
