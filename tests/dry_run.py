"""Tiny stand-ins for the base models that configurations name: same family, same depth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny_base import CHAT_TEMPLATE, IMAGE_SIZE, PATCH, SPECIAL, TOKENS, WORDS, make_processor

HIDDEN = 32
IMAGE, UNUSED = SPECIAL.index("<image>"), SPECIAL.index("<unk>")
PINPOINTS = [[IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE]]


@dataclass(frozen=True)
class StandIn:
    """A random ``model`` and the ``processor`` that makes its inputs."""

    model: Any
    processor: Any


def stand_in(base: str) -> StandIn:
    """The stand-in for the hub model ``base``; add a line below for one that is not known."""
    make, layers = PUBLISHED[base]
    torch.manual_seed(0)
    return make(layers)


def llava(layers: int) -> StandIn:
    config = LlavaConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**_text(layers)),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return StandIn(LlavaForConditionalGeneration(config), make_processor())


def llava_next(layers: int) -> StandIn:
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**_text(layers)),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_grid_pinpoints=PINPOINTS
    )
    processor = LlavaNextProcessor(
        images,
        make_processor().tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return StandIn(LlavaNextForConditionalGeneration(config), processor)


def llava_onevision(layers: int) -> StandIn:
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_VISION, image_size=IMAGE_SIZE, patch_size=PATCH),
        text_config=Qwen2Config(**_text(layers)),
        image_token_index=IMAGE,
        video_token_index=UNUSED,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = ImagesOnlyOnevision(
        LlavaOnevisionImageProcessorPil(size=side, image_grid_pinpoints=PINPOINTS),
        make_processor().tokenizer,
        None,
        num_image_tokens=TOKENS,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    return StandIn(LlavaOnevisionForConditionalGeneration(config), processor)


def qwen2_5_vl(layers: int) -> StandIn:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config=_text(layers, rope_parameters=rope),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": HIDDEN,
            "num_heads": 2,
            "depth": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        image_token_id=IMAGE,
        video_token_id=UNUSED,
    )
    tokenizer = make_processor().tokenizer
    tokenizer.image_token, tokenizer.video_token = "<image>", "<unk>"
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, min_pixels=64, max_pixels=IMAGE_SIZE**2
    )
    processor = ImagesOnlyQwen(images, tokenizer, None, chat_template=CHAT_TEMPLATE)
    return StandIn(Qwen2_5_VLForConditionalGeneration(config), processor)


class ImagesOnly:
    """No video processor: transformers has none without torchvision, and asks for one."""

    def check_argument_for_proper_class(self, name: str, value: Any) -> None:
        pass


class ImagesOnlyOnevision(ImagesOnly, LlavaOnevisionProcessor):
    pass


class ImagesOnlyQwen(ImagesOnly, Qwen2_5_VLProcessor):
    pass


PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": (llava, 32),
    "llava-hf/llava-1.5-13b-hf": (llava, 40),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (llava_next, 32),
    "llava-hf/llava-v1.6-mistral-7b-hf": (llava_next, 32),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (llava_onevision, 28),
    "Qwen/Qwen2.5-VL-7B-Instruct": (qwen2_5_vl, 28),
}
"""Hub ids of published models: how to make something like them, and their decoder's depth."""

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(**_VISION, image_size=IMAGE_SIZE, patch_size=PATCH)


def _text(layers: int, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes


def write_base(base: str, folder: Path) -> Any:
    """Write the stand-in's model to ``folder`` and return its processor."""
    found = stand_in(base)
    found.model.save_pretrained(folder)
    return found.processor


class Loads:
    """In place of ``AutoProcessor``: what it would find."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def from_pretrained(self, *_: Any, **__: Any) -> Any:
        return self.processor
