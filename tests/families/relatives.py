"""Families whose images are one square of tokens each, or tiles of such squares."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2Config,
    ResNetConfig,
    ShieldGemma2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from .case import (
    END,
    HIDDEN,
    IMAGE,
    START,
    Case,
    Media,
    Sample,
    batch,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .llava import PATCH, SIDE, TOKENS, clip, inputs

Inputs = Callable[..., dict[str, Tensor]]
TILE = 103
"""Stands for the marker tokens between tiles."""


def siglip(side: int = SIDE) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=PATCH,
        vision_use_head=False,
    )


def tiles(count: int, tokens: int, *, marked: bool) -> Inputs:
    """Inputs of a family that cuts every second image into ``count`` tiles of ``tokens``."""

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        several = count if (sample.seed + number) % 2 else 1
        between = [TILE] if marked else []
        row = [START, *([IMAGE] * tokens + between) * several, END]
        return Media(row, noise(generator, several, 3, SIDE, SIDE))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        return text | given(pixel_values=stacked(shown))

    return make


def padded_tiles(plain: Inputs) -> Inputs:
    """``plain`` with pixels (batch, tiles, ...), padded by all-zero images, which are skipped."""

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        made = plain(samples, padding=padding)
        pixels = made.pop("pixel_values", None)
        if pixels is None:
            return made
        counts = ((made["input_ids"] == IMAGE).sum(1) // TOKENS).tolist()
        padded = pixels.new_zeros(len(counts), max(counts), *pixels.shape[1:])
        for row, part in zip(padded, pixels.split(counts)):
            row[: len(part)] = part
        return made | {"pixel_values": padded}

    return make


def vipllava() -> Case:
    config = VipLlavaConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**sizes()),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -1],
    )
    return Case(with_large_weights(VipLlavaForConditionalGeneration(config)), inputs)


def fast_vlm() -> Case:
    tower = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        out_features=["stage2"],
        layer_type="basic",
        hidden_size=32,
    )
    config = FastVlmConfig(
        vision_config=tower, text_config=Qwen2Config(**sizes()), image_token_index=IMAGE
    )
    return Case(with_large_weights(FastVlmForConditionalGeneration(config)), inputs)


def internvl() -> Case:
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH // 2,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**sizes()),
        image_token_id=IMAGE,
        downsample_ratio=0.5,
    )
    model = with_large_weights(InternVLForConditionalGeneration(config))
    return Case(model, tiles(3, TOKENS, marked=False))


def idefics3(config_class: Any, model_class: Any) -> Case:
    config = config_class(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH // 2,
        },
        text_config=LlamaConfig(**sizes()),
        image_token_id=IMAGE,
        scale_factor=2,
    )
    inputs = padded_tiles(tiles(3, TOKENS, marked=True))
    return Case(with_large_weights(model_class(config)), inputs)


def gemma3(window: int, config_class: Any = Gemma3Config) -> Case:
    text = Gemma3TextConfig(**sizes(sliding_window=window, query_pre_attn_scalar=16))
    config = config_class(
        text_config=text,
        vision_config=siglip(),
        mm_tokens_per_image=TOKENS // 4,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
    )

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        return Media([START, *[IMAGE] * (TOKENS // 4), END], noise(generator, 1, 3, SIDE, SIDE))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        types = (text["input_ids"] == IMAGE).long()
        return text | given(pixel_values=stacked(shown), token_type_ids=types)

    return Case(with_large_weights(Gemma3ForConditionalGeneration(config)), make)


def paligemma(text: Any) -> Case:
    config = PaliGemmaConfig(
        vision_config=siglip(),
        text_config=text,
        image_token_index=IMAGE,
        projection_dim=HIDDEN,
    )

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        made = inputs(samples, padding=padding)
        return made | {"token_type_ids": torch.zeros_like(made["input_ids"])}

    return Case(with_large_weights(PaliGemmaForConditionalGeneration(config)), make)


def aya_vision() -> Case:
    text = Cohere2Config(**sizes(sliding_window=8, sliding_window_pattern=3))
    config = AyaVisionConfig(
        vision_config=siglip(SIDE * 2),
        text_config=text,
        image_token_index=IMAGE,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        vision_feature_layer=-1,
    )

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        several = 2 if (sample.seed + number) % 2 else 1
        row = [START, *([IMAGE] * TOKENS + [TILE]) * several, END]
        return Media(row, noise(generator, several, 3, SIDE * 2, SIDE * 2))

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        return text | given(pixel_values=stacked(shown))

    return Case(with_large_weights(AyaVisionForConditionalGeneration(config)), make)


CASES = {
    "vipllava": vipllava,
    "fast_vlm": fast_vlm,
    "internvl": internvl,
    "idefics3": lambda: idefics3(Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": lambda: idefics3(SmolVLMConfig, SmolVLMForConditionalGeneration),
    "gemma3": lambda: gemma3(512),
    "gemma3-window": lambda: gemma3(8),
    "shieldgemma2": lambda: gemma3(8, ShieldGemma2Config),
    "paligemma": lambda: paligemma(GemmaConfig(**sizes())),
    "paligemma2": lambda: paligemma(
        Gemma2Config(**sizes(sliding_window=8, query_pre_attn_scalar=16))
    ),
    "aya_vision": aya_vision,
}
